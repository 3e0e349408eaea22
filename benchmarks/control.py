"""Control of the adaptive implicit step: bent (geodesic acceleration), bent as far as published, straight, and other factors.

    python benchmarks/control.py [--threads 1] [--quick] [--out results/benchmarks/control.json]

Burgers at nu = 0.01/pi from scratch, all weights of 3 x 24, 2,000 points at first, 100 steps; then 0.01/pi -> 0.02/pi at
rank 4, balanced lift, 80 steps with the defaults' points, from the first bent solution. Relative L2 of the last iterate and
seconds of training; on one thread CPU seconds.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, write

import pinn_lora as pl

WAYS: dict[str, dict[str, Any]] = {
    "bent": {},
    "bent, |a| <= 0.75 |d|": {"acceleration": 1.5},
    "straight": {"acceleration": 0.0},
    "bent, grow 10": {"grow": 10.0},
    "bent, shrink 4": {"shrink": 4.0},
}


def method(lift: str, options: dict[str, Any]) -> pl.Method:
    return pl.Method("identity", lift, {"name": "rosenbrock_euler", **options})


def row(task: str, way: str, seed: int, solution: pl.Solution) -> dict[str, Any]:
    last = solution.history[-1]
    found = {"task": task, "way": way, "seed": seed, "relative_l2": solution.relative_l2()}
    found |= {"held_out_loss": last.held_out_loss, "seconds": last.seconds, "steps": last.step}
    print(
        f"{task:<12} {way:<21} seed {seed}  {found['relative_l2']:.2e}  held-out loss {last.held_out_loss:.1e}  "
        f"{last.seconds:5.1f} s",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Control of the implicit step, side by side.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps: shows that it runs")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/control.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    problem, target = Burgers(nu=0.01 / math.pi), Burgers(nu=0.02 / math.pi)
    seeds, lengths = (range(1), (5, 5)) if arguments.quick else (range(3), (100, 80))
    rows, base = [], None
    for seed in seeds:
        for way, options in WAYS.items():
            chosen = method("chain_rule", options)
            solved = pl.pretrain(problem, method=chosen, points=2000, max_steps=lengths[0], seed=seed)
            base = base or solved
            rows.append(row("from scratch", way, seed, solved))
    assert base is not None
    for seed in seeds:
        for way, options in WAYS.items():
            tuned = pl.finetune(
                base, target, method=method("balanced", options), rank=4, max_steps=lengths[1], seed=seed
            )
            rows.append(row("fine-tuning", way, seed, tuned))
    write(arguments.out, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
