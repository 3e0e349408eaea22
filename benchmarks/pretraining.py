"""Two ways that pretraining might be quicker or better: conditions weighted by a rule, and a first part in float32.

    python benchmarks/pretraining.py [--threads 1] [--quick] [--only weights float32] [--out FILE]

Weights: problems with all conditions in the loss, defaults of `pretrain`, w_k = 1, 10 or 100 for every condition beside 1 for
the residual, or w_k = tr K_r / tr K_k with K_k = J_k J_k^T / N_k at the first weights (Wang, Yu & Perdikaris 2022, arXiv
2007.14527, who make it anew while training). float32: as many steps all in float64, or the first 40 % (implicit steps, 3 x 24)
or all of Adam's (4 x 64) in float32. Relative L2 of the last iterate, CPU seconds of training. What is written:
results/benchmarks/pretraining.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.klein_gordon import KleinGordon
from pinn_lora.problems.wave import Wave
from side_by_side import machine, write

import pinn_lora as pl
from pinn_lora.lora import Blocks
from pinn_lora.points import first_points
from pinn_lora.training import network_for

SOFT = [Burgers(nu=0.01 / math.pi, form="soft"), Wave(form="soft"), KleinGordon(form="soft")]


def trace_weights(problem: pl.Problem, seed: int, points: int = 1000) -> dict[str, float]:
    """w_k = tr K_r / tr K_k of every condition, at the weights that `pretrain` starts from."""
    network = network_for(problem, seed=seed)
    blocks, chosen = Blocks(network), first_points(problem, points, seed=seed)
    theta, traces = blocks.read(network), {}
    names = [name for name, _, _ in problem.terms()]
    for name in names:
        weights = {other: float(other == name) for other in names}
        objective = pl.Objective(problem, network, blocks, chosen, weights)
        traces[name] = sum(float(J.square().sum()) for J in objective.jacobian_rows(theta))
    return {name: traces["residual"] / traces[name] for name in names if name != "residual"}


def weights_rows(problem: pl.Problem, seeds: Sequence[int], options: dict[str, Any]) -> list[dict]:
    """One row a choice of weights."""
    conditions, rows = [name for name, _, _ in problem.terms() if name != "residual"], []
    for choice in (1.0, 10.0, 100.0, "traces"):
        errors, seconds, taken = [], [], []
        for seed in seeds:
            weights = trace_weights(problem, seed) if choice == "traces" else dict.fromkeys(conditions, float(choice))
            last = pl.pretrain(problem, weights=weights, seed=seed, **options).history[-1]
            errors, seconds, taken = [*errors, last.relative_l2], [*seconds, last.seconds], [*taken, weights]
        rows.append({"name": repr(problem), "weights": choice, "errors": errors, "seconds": seconds, "taken": taken})
        print(
            f"{problem!r:<60} {choice!s:<7}", " ".join(f"{e:.2e}" for e in errors), f"{sum(seconds):.0f} s", flush=True
        )
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Weights of conditions by a rule, and a first part in float32.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: shows that it runs")
    parser.add_argument("--only", nargs="+", choices=["weights", "float32"], default=["weights", "float32"])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/pretraining.json"))
    given = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads)
    seeds = range(1 if given.quick else 3)
    short: dict[str, Any] = {"max_steps": 8, "points": 100} if given.quick else {}
    found: dict[str, list[dict]] = {}
    try:
        if "weights" in given.only:
            found["weights"] = [row for problem in SOFT for row in weights_rows(problem, seeds, short)]
        if "float32" in given.only:
            less: dict[str, Any] = {"points": 100} if given.quick else {}
            lm, adam = (8, 8) if given.quick else (250, 5000)
            wide = {"width": 16 if given.quick else 64, "depth": 4, **less}
            found["float32"] = [
                float32_row("implicit, 3 x 24", "full-lm", lm, 0.4, seeds, **less),
                float32_row("Adam alone, 4 x 64", "full-adam", adam, 1.0, seeds[:1], **wide),
            ]
    finally:
        torch.set_num_threads(before)
    write(given.out, {"machine": machine(), "seeds": list(seeds), **found})


if __name__ == "__main__":
    main()
