"""Fine-tunings made at once by `pl.together`, beside the same one after another.

    python benchmarks/batch.py [--runs 16] [--device cuda] [--quick] [--out results/benchmarks/batch.json]

Burgers from one small base at 0.02/pi to 0.03/pi, 3 x 24, rank 4, float64, one seed a run; more and more points, none added.
`alone` and `together`: seconds of training of all runs, as their histories have them, on one thread of a CPU its CPU
seconds; `ratio` is alone over together. `whole`: the calls themselves, with starts, records and errors on the test grid, which
nothing batches. The held-out losses at the end must agree: to 1e-6, as rounding grows over the steps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, write

import pinn_lora as pl
from pinn_lora.clock import seconds

STEPS = {"odelora-implicit": 10, "lora-adam": 100, "odelora-rk4": 25}
POINTS = (64, 128, 200, 1000)
AGREEMENT = 1e-6


def timed(make: Callable[[], list[pl.Solution]], device: torch.device) -> tuple[list[pl.Solution], dict[str, float]]:
    start = seconds(device)
    made = make()
    whole = seconds(device) - start
    return made, {"training": sum(s.history[-1].seconds for s in made), "whole": whole}


def measure(base: pl.Solution, method: str, points: int, runs: int, steps: int) -> dict[str, Any]:
    """The runs alone, then together; RuntimeError where their losses do not agree."""
    device = next(iter(base.network.state_dict().values())).device
    options = {"method": method, "points": points, "max_steps": steps, "resample_every": None}
    calls = [partial(pl.finetune, base, Burgers(nu=0.03 / math.pi), seed=s, **options) for s in range(runs)]
    pl.together(calls[:2])  # what is made once
    alone, one_by_one = timed(lambda: [call() for call in calls], device)
    batched, at_once = timed(lambda: pl.together(calls), device)
    losses = [[s.history[-1].held_out_loss for s in made] for made in (alone, batched)]
    worst = max(abs(b / a - 1.0) for a, b in zip(*losses, strict=True))
    if not worst <= AGREEMENT:
        raise RuntimeError(
            f"{method}, {points} points: a held-out loss differs by {worst:.1e}, more than {AGREEMENT:.0e}"
        )
    ratio = {kind: one_by_one[kind] / at_once[kind] for kind in one_by_one}
    row = {"method": method, "points": points, "runs": runs, "steps": steps, "alone": one_by_one, "together": at_once}
    print(
        f"{method:<17} {points:>5} points  training {one_by_one['training']:6.2f} s alone, {at_once['training']:6.2f} s "
        f"together: {ratio['training']:.2f} times; whole {ratio['whole']:.2f} times",
        flush=True,
    )
    return {**row, "ratio": ratio, "difference": worst}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tunings at once and one after another.")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--quick", action="store_true", help="three runs, the fewest points and a few steps: shows that it runs"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/batch.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    base = pl.pretrain(Burgers(nu=0.02 / math.pi), points=300, max_steps=30, device=arguments.device)
    runs = 3 if arguments.quick else arguments.runs
    rows = [
        measure(base, method, points, runs, 3 if arguments.quick else steps)
        for method, steps in STEPS.items()
        for points in (POINTS[:1] if arguments.quick else POINTS)
    ]
    write(arguments.out, {"machine": machine(), "device": arguments.device, "rows": rows})


if __name__ == "__main__":
    main()
