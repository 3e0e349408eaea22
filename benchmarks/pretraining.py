"""Three ways that pretraining might be quicker or better: weights by a rule, a first part in float32, implicit steps when wide.

    python benchmarks/pretraining.py [--threads 1] [--quick] [--only weights others float32 wide] [--out FILE]

Weights: problems with all conditions in the loss, defaults of `pretrain`, w_k = 1, 10 or 100 for every condition beside 1 for
the residual, or `trace_weights`, the default. Others: nine more problems with one seed and at most 60 s, 1 and `trace_weights`.
float32: as many steps all in float64, or the first 40 % (implicit steps, 3 x 24) or all of Adam's (4 x 64) in float32.
Wide: 4 x 64 and 4 x 128, compiled, by Adam and L-BFGS, and by implicit steps on all weights (`full-lm`) for a given time.
Relative L2 of the last iterate, CPU seconds of training. What is written: results/benchmarks/pretraining.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pinn_lora.problems.allen_cahn import AllenCahn
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.cavity import Cavity
from pinn_lora.problems.convection import Convection
from pinn_lora.problems.helmholtz import Helmholtz
from pinn_lora.problems.kdv import KdV
from pinn_lora.problems.klein_gordon import KleinGordon
from pinn_lora.problems.kovasznay import Kovasznay
from pinn_lora.problems.kuramoto_sivashinsky import KuramotoSivashinsky
from pinn_lora.problems.reaction import Reaction
from pinn_lora.problems.reaction_diffusion import ReactionDiffusion
from pinn_lora.problems.schroedinger import Schroedinger
from pinn_lora.problems.wave import Wave
from side_by_side import machine, write

import pinn_lora as pl

SOFT = [Burgers(nu=0.01 / math.pi, form="soft"), Wave(form="soft"), KleinGordon(form="soft")]
OTHERS = [  # with one seed, weights of 1 and by traces
    Convection(form="soft"),
    Reaction(form="soft"),
    ReactionDiffusion(form="soft"),
    AllenCahn(D=1e-3, form="soft"),
    KdV(form="soft"),
    KuramotoSivashinsky(form="soft"),
    Schroedinger(form="soft"),
    Kovasznay(form="soft"),
    Cavity(form="soft"),
]


WIDE = [  # problem, width at depth 4, seconds of full-lm
    (Burgers(nu=0.01 / math.pi), 64, 300.0),
    (AllenCahn(D=1e-4), 64, 300.0),
    (Helmholtz(), 64, 300.0),
    (KdV(), 64, 300.0),
    (Burgers(nu=0.01 / math.pi), 128, 1000.0),
]

PARTS = ["weights", "others", "float32", "wide"]


def weights_rows(
    problem: pl.Problem, seeds: Sequence[int], choices: Sequence[float | None], options: dict[str, Any]
) -> list[dict]:
    """One row a choice of weights, the same for all conditions; None for `trace_weights`."""
    conditions, rows = [name for name, _, _ in problem.terms() if name != "residual"], []
    for choice in choices:
        weights = None if choice is None else dict.fromkeys(conditions, choice)
        found = [pl.pretrain(problem, weights=weights, seed=seed, **options) for seed in seeds]
        errors = [solution.history[-1].relative_l2 for solution in found]
        seconds = [solution.history[-1].seconds for solution in found]
        taken = [solution.settings["weights"] for solution in found]
        told = "traces" if choice is None else choice
        rows.append({"name": repr(problem), "weights": told, "errors": errors, "seconds": seconds, "taken": taken})
        errors_told = " ".join(f"{e:.2e}" for e in errors)
        print(f"{problem!r:<60} {told!s:<7} {errors_told} {sum(seconds):.0f} s", flush=True)
    return rows


def float32_row(name: str, method: str, steps: int, share: float, seeds: Sequence[int], **options: Any) -> dict:
    """Burgers at 0.01/pi by `steps` steps, the first `share` of them in float64 or in float32."""
    problem, row = Burgers(nu=0.01 / math.pi), {"name": name, "steps": steps, "share": share}
    rest = None if share == 1.0 else steps - round(share * steps)
    for dtype in ("float64", "float32"):
        found = []
        for seed in seeds:
            if dtype == "float64" and rest is not None:
                parts = [pl.pretrain(problem, method=method, max_steps=steps, seed=seed, **options)]
            else:
                parts = [
                    pl.pretrain(
                        problem, method=method, max_steps=round(share * steps), seed=seed, dtype=dtype, **options
                    )
                ]
                if rest is not None:
                    network = parts[0].network.double()
                    parts.append(
                        pl.pretrain(problem, method=method, max_steps=rest, seed=seed + 100, network=network, **options)
                    )
            found.append((parts[-1].history[-1].relative_l2, sum(part.history[-1].seconds for part in parts)))
        row[dtype] = {"errors": [error for error, _ in found], "seconds": [seconds for _, seconds in found]}
        print(f"{name:<40} {dtype}", " ".join(f"{error:.2e} {seconds:.0f} s" for error, seconds in found), flush=True)
    return row


def wide_rows(problem: pl.Problem, width: int, seconds: float, short: dict[str, Any]) -> list[dict]:
    """A wide network by Adam and L-BFGS to their end, and by implicit steps for `seconds`: with the error on the way."""
    rows = []
    for method, options in (("adam-lbfgs", {}), ("full-lm", {"max_seconds": seconds, "max_steps": 1000})):
        given = {"width": width, "depth": 4, "points": 2000, "compile": True, **options, **short}
        solution = pl.pretrain(problem, method=method, **given)
        last = solution.history[-1]
        way = [(r.seconds, r.relative_l2) for r in solution.history]
        ends = rows[0]["relative_l2"] if rows else last.relative_l2
        row = {"name": repr(problem), "width": width, "method": method, "status": str(solution.status)}
        row |= {"as_low_as_the_first_after": next((t for t, error in way if error <= ends), None)}
        row |= {"relative_l2": last.relative_l2, "seconds": last.seconds, "steps": last.step, "points": last.points}
        row |= {"way": [*way[:: max(len(way) // 40, 1)], way[-1]]}
        print(f"{problem!r:<60} 4 x {width} {method:<10} {last.relative_l2:.2e} {last.seconds:.0f} s", flush=True)
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Weights of conditions by a rule, and a first part in float32.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: shows that it runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/pretraining.json"))
    given = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads)
    seeds = range(1 if given.quick else 3)
    short: dict[str, Any] = {"max_steps": 8, "points": 100} if given.quick else {}
    found: dict[str, list[dict]] = {}
    less: dict[str, Any]
    try:
        if "weights" in given.only:
            choices = [1.0, 10.0, 100.0, None]
            found["weights"] = [row for problem in SOFT for row in weights_rows(problem, seeds, choices, short)]
        if "others" in given.only:
            less = {"max_seconds": 60.0, **short}
            found["others"] = [row for problem in OTHERS for row in weights_rows(problem, seeds[:1], [1.0, None], less)]
        if "float32" in given.only:
            less = {"points": 100} if given.quick else {}
            lm, adam = (8, 8) if given.quick else (250, 5000)
            wide = {"width": 16 if given.quick else 64, "depth": 4, **less}
            found["float32"] = [
                float32_row("implicit, 3 x 24", "full-lm", lm, 0.4, seeds, **less),
                float32_row("Adam alone, 4 x 64", "full-adam", adam, 1.0, seeds[:1], **wide),
            ]
        if "wide" in given.only:
            found["wide"] = []
            for case in WIDE[: 1 if given.quick else None]:
                found["wide"] += wide_rows(*case, short)
                write(given.out, {"machine": machine(), "seeds": [0], **found})  # hours: what is made is kept
    finally:
        torch.set_num_threads(before)
    write(given.out, {"machine": machine(), "seeds": list(seeds), **found})


if __name__ == "__main__":
    main()
