"""The sharp end of the Burgers family: how many points a thin layer needs, and what a neighbour's factors are worth.

    python benchmarks/families.py [--threads 1] [--quick] [--out results/benchmarks/families.json]

From a base at nu = 0.01/pi to 0.005/pi in a step of 6 % and four
of 17 %, rank 4, with 3000 (0.01/pi / nu)^p points, by factors alone and
with biases and output layer; at p = 1 also with every member from the base itself. Seconds are those of training.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, write

import pinn_lora as pl

SHARP = [0.005 * 20 ** (k / 19) / math.pi for k in range(5)]
POWERS = (0.0, 1.0, 2.0)


def rows_of(name: str, family: pl.Family) -> list[dict]:
    rows = [{"name": name, **row} for row in family.table()]
    for row in rows:
        told = f"nu = {row['nu'] * math.pi:.5f}/pi, {row['points']} points, from {row['started_from']}"
        print(f"{name:<24} {told:<60} {row['relative_l2']:.2e}  {row['seconds']:6.1f} s", flush=True)
    return rows


def from_the_base(family: pl.Family, seed: int) -> pl.Family:
    """The same members at the same points, each from the base."""
    found = []
    for member in family.members:
        options = {"points": member.settings["points"], "train_biases": True, "train_output": True, "seed": seed}
        tuned = pl.finetune(family.base, member.problem, rank=4, **options)
        found.append(replace(tuned, settings={**tuned.settings, "seconds": tuned.history[-1].seconds}))
    return pl.Family(family.base, tuple(found), (None,) * len(found))


def main() -> None:
    parser = argparse.ArgumentParser(description="Points and starts at the sharp end of the Burgers family.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a short pretraining, two members, one power")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/families.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seed, quick = 0, arguments.quick
    base = pl.pretrain(Burgers(nu=0.01 / math.pi), seed=seed, max_steps=20 if quick else None)
    members = [Burgers(nu=nu) for nu in (SHARP[3:] if quick else SHARP)]
    options = {"rank": 4, "threads": arguments.threads, "seed": seed, "max_steps": 5 if quick else None}
    rows = []
    for power in POWERS[1:2] if quick else POWERS:

        def rule(problem: Any, power: float = power) -> int:
            return round(3000 * (0.01 / math.pi / problem.nu) ** power)

        alone = pl.solve_family(base, members, points=rule, **options)
        rows += rows_of(f"power {power:g}, factors alone", alone)
        family = pl.solve_family(base, members, points=rule, train_biases=True, train_output=True, **options)
        rows += rows_of(f"power {power:g}", family)
        if power == 1.0:
            rows += rows_of("power 1, from the base", from_the_base(family, seed))
    write(arguments.out, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
