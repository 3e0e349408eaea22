"""What pretraining reaches from scratch on the harder problems, against the true solutions.

    python benchmarks/problems.py [--threads 1] [--only kdv ...] [--seeds 0 1 2] [--quick] [--out FILE]

`pretrain` with its defaults but for what a row says, the last iterate; seed 0 where none is given. Seconds are of training
alone. `aim` is what the row is meant to reach.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine, write

import pinn_lora as pl
import pinn_lora.problems
from pinn_lora.catalog import find
from pinn_lora.problem import Problem

FIXED = {"resample_every": None}
SOFT = {"form": "soft"}
ROWS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], float]] = [
    # problem, its coefficients, network, pretrain's options, aim
    ("helmholtz", {}, {}, {}, 1e-6),
    ("helmholtz", {}, {"activation": "sin"}, {"points": 1500, "max_steps": 1500, "max_seconds": 120.0, **FIXED}, 1e-8),
    ("convection", {}, {}, {}, 1e-4),
    ("convection", {}, {}, {"max_steps": 500}, 1e-4),
    ("convection", {}, {}, {"points": 2000, "max_steps": 500, **FIXED}, 1e-4),
    ("convection", SOFT, {}, {}, 1e-4),
    ("kdv", {}, {}, {}, 1e-3),
    ("allen_cahn", {}, {}, {"max_seconds": 180.0}, 5e-4),
    ("allen_cahn", {}, {}, {"max_seconds": 900.0, "max_steps": 2000}, 1e-5),
    ("burgers", {}, {}, {"max_seconds": 600.0, "max_steps": 2000}, 1e-6),
    ("burgers", {}, {"width": 32}, {"max_seconds": 3600.0, "max_steps": 20_000, "compile": True}, 8.3e-9),
    ("kovasznay", {}, {}, {}, 1e-6),
    ("kovasznay", {}, {}, {"points": 1000, **FIXED}, 1e-6),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="What pretraining reaches from scratch.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="these problems alone")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--quick", action="store_true", help="three steps each: shows that it runs")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/problems.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name, coefficients, shape, options, aim in ROWS:
        if arguments.only and name not in arguments.only:
            continue
        for seed in arguments.seeds:
            problem = find(pinn_lora.problems, Problem, name)(**coefficients)
            fields, periodic = len(problem.fields), problem.periodic
            network = pl.MLP(problem.domain, fields=fields, periodic=periodic, seed=seed, **shape)
            given = {**options, "seed": seed, **({"max_steps": 3} if arguments.quick else {})}
            solved = pl.pretrain(problem, network=network, **given)
            last, error = solved.history[-1], solved.relative_l2()
            rows.append({"problem": repr(problem), "options": {**shape, **options}, "seed": seed, "relative_l2": error})
            rows[-1] |= {"aim": aim, "seconds": last.seconds, "steps": last.step, "status": str(solved.status)}
            told = ", ".join(
                f"{key} {value}" for key, value in {**coefficients, **shape, **options, "seed": seed}.items()
            )
            line = f"{name + ' (' + told + ')':<92} {error:.2e}  aim {aim:.0e}  {last.seconds:6.1f} s"
            print(f"{line}  {last.step:4d} steps  {solved.status}", flush=True)
            assert math.isfinite(error)
            write(arguments.out, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
