"""How the cost of one gradient and of one implicit step grows with the points, the width, the rank and the runs made at once.

    python benchmarks/scaling.py            # some minutes; writes results/benchmarks/scaling.json and scaling.png
    python benchmarks/scaling.py --quick    # the two smallest sizes of each: shows that it runs
    python benchmarks/scaling.py --only runs    # some of the axes

Burgers, factors of the hidden layers, float64, one thread, CPU seconds, medians. The points grow at 3 x 24 and rank 4, the
width at depth 4, rank 4 and 2,000 points, the rank at 4 x 128 and 2,000 points, the runs of one `pl.together` at 3 x 24, rank 4
and 200 points, where `gradient` is a step of lora-adam and `step` one of odelora-implicit, of all runs, in their histories'
seconds of training. `step` is one implicit step of h = 1 with the
balanced lift: the Gauss-Newton system made and solved by the solver that `Flow.system` chooses, which its row names.
`deepxde` is dde.grad's gradient of the residual alone, in the same factors, at as many points. It keeps all of its tape: up to
100,000 points.
`exponents`: the slope of a least-squares line through log seconds against log size, over the upper half of the sizes' range on
a log scale. MiB are those that the process holds at most during one call, above what it held before the points and the network
were made.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from derivatives import deepxde_way
from equations import BURGERS
from matplotlib import style
from matplotlib.figure import Figure
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, medians, write

import pinn_lora as pl
from pinn_lora.figures import COLOURS, STYLE
from pinn_lora.flow import Flow, solver_of
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import Blocks
from pinn_lora.memory import peak_memory_mib, reset_peak_memory
from pinn_lora.metrics.identity import Identity
from pinn_lora.points import first_points

SIZES: dict[str, list[int]] = {
    "points": [1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000],
    "width": [16, 32, 64, 128, 256, 512, 1024],
    "rank": [1, 2, 4, 8, 16, 32, 64],
    "runs": [1, 2, 4, 8, 16, 32, 64],
}
FIXED = {
    "points": {"depth": 3, "width": 24, "rank": 4},
    "width": {"depth": 4, "rank": 4, "points": 2000},
    "rank": {"depth": 4, "width": 128, "points": 2000},
    "runs": {"depth": 3, "width": 24, "rank": 4, "points": 200},
}
STEPS = {"gradient": ("lora-adam", 50), "step": ("odelora-implicit", 10)}  # of every run that is made at once
MARKERS = {"cholesky": "o", "kernel": "s", "cg": "^"}
H = 1.0
WAYS = {"gradient": "gradient", "step": "implicit step", "deepxde": "DeepXDE's gradient"}
DEEPXDE_POINTS = 100_000  # at most: it keeps the tape of all points at once


def objective_of(depth: int, width: int, rank: int, points: int) -> pl.Objective:
    problem = Burgers(nu=0.01 / math.pi)
    network = pl.MLP(problem.domain, width=width, depth=depth, periodic=problem.periodic)
    network = pl.adapt(network, rank=rank, initializer="balanced")
    return pl.Objective(problem, network, Blocks(network), first_points(problem, points, seed=0))


def peak_of(call: Callable[[], object], before: float | None) -> float | None:
    """MiB that the process holds at most during the call, above `before`; None where the system does not say."""
    reset_peak_memory()
    call()
    peak = peak_memory_mib()
    return None if peak is None or before is None else peak - before


def held() -> float | None:
    """MiB of the process once everything freed is given back."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)  # glibc keeps what small pieces leave
    reset_peak_memory()
    return peak_memory_mib()


def solver_name(objective: pl.Objective) -> str:
    """The solver of a step."""
    return solver_of(objective, objective.blocks.read(objective.network)).__module__.rpartition(".")[2]


def measure(axis: str, size: int, repeats: int) -> dict[str, Any]:
    before, shape = held(), {**FIXED[axis], axis: size}
    objective = objective_of(**shape)
    theta = objective.blocks.read(objective.network)
    step = lambda: Flow(objective, Balanced(), Identity()).system(theta).solve(H, 0.1)  # noqa: E731
    ways = {"gradient": lambda: objective.gradient(theta), "step": step}
    if shape["points"] <= DEEPXDE_POINTS:
        at = BURGERS.problem.domain.sample(shape["points"])
        ways["deepxde"] = deepxde_way(objective.network, at, BURGERS)
    mib = {name: peak_of(way, before) for name, way in ways.items()}
    return {
        "axis": axis,
        **shape,
        "unknowns": objective.size,
        "residuals": objective.rows,
        "solver": solver_name(objective),
        "seconds": medians(ways, repeats),
        "peak_mib": mib,
    }


def measure_runs(size: int, repeats: int) -> dict[str, Any]:
    """So many fine-tunings at once, each with its own points: seconds of a step of all of them."""
    shape = FIXED["runs"]
    network = pl.MLP(
        (problem := Burgers(nu=0.02 / math.pi)).domain, width=shape["width"], depth=shape["depth"], periodic=["x"]
    )
    base, target = pl.pretrain(problem, network=network, points=300, max_steps=30), Burgers(nu=0.03 / math.pi)
    seconds: dict[str, float] = {}
    for name, (method, steps) in STEPS.items():
        options = {"method": method, "rank": shape["rank"], "points": shape["points"], "max_steps": steps}
        calls = [partial(pl.finetune, base, target, seed=seed, resample_every=None, **options) for seed in range(size)]
        taken = []
        for _ in range(repeats + 1):  # the first one warms up
            taken.append(sum(run.history[-1].seconds for run in pl.together(calls)) / steps)
        seconds[name] = statistics.median(taken[1:])
    objective = objective_of(**shape)  # of one of them
    row = {"axis": "runs", **shape, "runs": size, "unknowns": objective.size, "residuals": objective.rows}
    row["solver"] = solver_name(objective)
    return {**row, "seconds": seconds, "peak_mib": {}}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds against log size, for rising sizes from the geometric middle of their range on, two at least."""
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(seconds, dtype=float))
    upper = min(int(np.searchsorted(x, 0.5 * (x[0] + x[-1]) - 1e-9)), len(x) - 2)
    return float(np.polyfit(x[upper:], y[upper:], 1)[0])


def exponents(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found = {}
    for axis in dict.fromkeys(row["axis"] for row in rows):
        own = {name: [row for row in rows if row["axis"] == axis and name in row["seconds"]] for name in WAYS}
        found[axis] = {
            name: exponent([row[axis] for row in some], [row["seconds"][name] for row in some])
            for name, some in own.items()
            if some
        }
    return found


def draw(rows: Sequence[dict[str, Any]], fitted: dict[str, dict[str, float]]) -> Figure:
    """Seconds against size, a panel an axis; a step's marker is its solver."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(3.7 * len(fitted), 4.8), layout="constrained")
        for panel, axis in zip(figure.subplots(1, len(fitted), sharey=True, squeeze=False)[0], fitted, strict=True):
            own = [row for row in rows if row["axis"] == axis]
            for (name, long), colour in zip(WAYS.items(), COLOURS, strict=False):
                if name not in fitted[axis]:
                    continue
                some = [row for row in own if name in row["seconds"]]
                at, taken = [row[axis] for row in some], [row["seconds"][name] for row in some]
                label = f"{long}, exponent {fitted[axis][name]:.2f}"
                panel.plot(at, taken, color=colour, marker="" if name == "step" else ".", label=label)
            for solver in dict.fromkeys(row["solver"] for row in own):
                some = [row for row in own if row["solver"] == solver]
                at, taken = [row[axis] for row in some], [row["seconds"]["step"] for row in some]
                panel.plot(at, taken, MARKERS.get(solver, "D"), color=COLOURS[1], label=f"by {solver}")
            fixed = ", ".join(f"{name} {value:,}" for name, value in FIXED[axis].items())
            panel.set(xscale="log", yscale="log", xlabel=axis, title=fixed)
            panel.grid(which="major", color="0.9", linewidth=0.6)
            panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.16))
        figure.axes[0].set_ylabel("CPU seconds, one thread")
    return figure


def line(row: dict[str, Any]) -> str:
    told = "".join(f"{row['seconds'][name]:>11.4f}" if name in row["seconds"] else f"{'-':>11}" for name in WAYS)
    mib = "".join(f"{'-' if (m := row['peak_mib'].get(name)) is None else f'{m:.0f}':>10}" for name in WAYS)
    return f"{row['axis']:>7} {row[row['axis']]:>9,} {row['unknowns']:>9,} {row['solver']:>9}{told}{mib}"


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes of each, once")
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES), help="axes")
    parser.add_argument("--repeats", type=int, help="repetitions (default: 3, quick 1)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/scaling.json"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    repeats, rows = arguments.repeats or (1 if arguments.quick else 3), []
    measure("rank", 1, 1)  # what torch loads at its first calls is no row's memory
    print(f"CPU seconds, one thread, float64, median of {repeats}; peak MiB of one call")
    names = "".join(f"{name:>11}" for name in WAYS) + "".join(f"{'MiB':>10}" for _ in WAYS)
    print(f"{'axis':>7} {'size':>9} {'unknowns':>9} {'solver':>9}{names}")
    for axis in arguments.only:
        for size in SIZES[axis][: 2 if arguments.quick else None]:
            rows.append(measure_runs(size, repeats) if axis == "runs" else measure(axis, size, repeats))
            print(line(rows[-1]), flush=True)
    fitted = exponents(rows)
    for axis, found in fitted.items():
        print(f"exponents in {axis}, upper half: " + ", ".join(f"{name} {slope:.2f}" for name, slope in found.items()))
    write(arguments.out, {"machine": machine(), "repeats": repeats, "h": H, "rows": rows, "exponents": fitted})
    draw(rows, fitted).savefig(arguments.out.with_suffix(".png"), dpi=144)


if __name__ == "__main__":
    main()
