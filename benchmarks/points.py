"""When fine-tuning adds points: where they are needed, at every chance, or never.

    python benchmarks/points.py [--threads 1] [--quick] [--out results/benchmarks/points.json]

`finetune(resample_every=...)` with "auto", 10 and None at the same base, members, steps and seeds, rank 4: Burgers from
0.01/pi to 0.02/pi, with hidden factors alone and with biases and output layer; Allen-Cahn from D = 1e-4, rho = 5 to two members
of its family, with biases and output layer. Seconds are those of training, CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pinn_lora.problems.allen_cahn import AllenCahn
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, write

import pinn_lora as pl

WIDER: dict[str, Any] = {"train_biases": True, "train_output": True}
CASES: list[
    tuple[pl.Problem, list[tuple[pl.Problem, dict[str, Any]]]]
] = [  # a base, and its members with their options
    (
        Burgers(nu=0.01 / math.pi),
        [
            (Burgers(nu=0.02 / math.pi), {"max_steps": 80}),
            (Burgers(nu=0.02 / math.pi), {"max_steps": 150, **WIDER}),
        ],
    ),
    (
        AllenCahn(D=1e-4, rho=5.0),
        [
            (AllenCahn(D=1e-4, rho=4.0), {"max_steps": 80, **WIDER}),
            (AllenCahn(D=1.8e-4, rho=5.0), {"max_steps": 80, **WIDER}),
        ],
    ),
]
SCHEDULES: list[int | str | None] = ["auto", 10, None]


def measure(base: pl.Solution, member: pl.Problem, options: dict[str, Any], seeds: Sequence[int]) -> list[dict]:
    """One row a schedule: errors of the last iterate, seconds and points in the end, of every seed and their medians."""
    rows = []
    for every in SCHEDULES:
        ended = [pl.finetune(base, member, rank=4, resample_every=every, seed=seed, **options) for seed in seeds]
        last = [solution.history[-1] for solution in ended]
        found = {key: [getattr(record, key) for record in last] for key in ("relative_l2", "seconds", "points")}
        median = {key: statistics.median(values) for key, values in found.items()}
        name = f"{member!r}, {options['max_steps']} steps{', biases and output layer' if 'train_biases' in options else ''}"
        rows.append({"name": name, "resample_every": every, **found, "median": median})
        told = f"{median['relative_l2']:.2e}  {median['seconds']:5.1f} s  {median['points']:6.0f} points"
        print(f"{name:<72} {every!s:<5} {told}", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="When fine-tuning adds points.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: shows that it runs")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/points.json"))
    given = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads)
    short: dict[str, Any] = {"max_steps": 12, "points": 100} if given.quick else {}
    seeds, rows = range(1 if given.quick else 3), []
    try:
        for problem, members in CASES:
            base = pl.pretrain(problem, seed=0, **short)
            for member, options in members:
                rows += measure(base, member, {**options, **short}, seeds)
    finally:
        torch.set_num_threads(before)
    write(given.out, {"machine": machine(), "seeds": list(seeds), "rows": rows})


if __name__ == "__main__":
    main()
