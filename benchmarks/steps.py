"""What a step of a factor flow costs beside the loss and its gradient: 4 x 64, rank 8, 10,240 points, float64, one thread.

    python benchmarks/steps.py    # about half a minute; writes results/benchmarks/steps.json

For every lift the seconds of its velocities (metric's weights, all layers, one flat vector) and, where the metric learns, of
the energies it learns from, against those of one gradient of the factors; medians, taking turns in one run. A metric that asks
for the dense gradient pays for that instead of the factors' gradient: its row has that gradient's time too. `gradients`: ours
beside dde.grad's and torch.autograd.grad's of the residual alone, at as many points, in the same factors.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from derivatives import deepxde_way, nested_way
from equations import BURGERS
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, medians, write

from pinn_lora import lifts, metrics
from pinn_lora.catalog import build, find, names
from pinn_lora.flow import Flow
from pinn_lora.lifts import Lift
from pinn_lora.lora import Blocks, adapt
from pinn_lora.metrics import Metric
from pinn_lora.networks.mlp import MLP
from pinn_lora.objective import Objective
from pinn_lora.points import first_points

AIM = 0.10  # of one gradient


def seconds(function: Callable[[], object]) -> float:
    """Of CPU, on one thread."""
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(objective: Objective, theta: torch.Tensor, lift: str, metric: dict, repeats: int) -> dict:
    """Median seconds of one gradient of the factors, of the dense one where it is asked for, and of all else."""
    flow = Flow(objective, build(lifts, Lift, lift), build(metrics, Metric, metric))
    flow.gradient(theta)
    flow.observe(theta)
    found: dict[str, list[float]] = {"gradient": [], "dense": [], "own": []}

    def work() -> None:
        flow._observed = None  # as at a new theta, whose gradient is already there
        flow.observe(theta)
        flow.velocity(theta)

    for _ in range(repeats):
        found["gradient"].append(seconds(lambda: objective.gradient(theta)))
        if metric.get("source") == "dense":
            fresh = theta.clone()
            found["dense"].append(seconds(lambda fresh=fresh: flow.gradient(fresh)))
            flow.gradient(theta)
        found["own"].append(seconds(work))
    median = {name: 1e3 * statistics.median(times) for name, times in found.items() if times}
    return {
        "lift": lift,
        "metric": metric,
        "milliseconds": median,
        "share": median["own"] / median["gradient"],
        "aim": AIM,
    }


def gradients(objective: Objective, theta: torch.Tensor, points: int, repeats: int) -> dict[str, float]:
    """Milliseconds of one gradient of the factors: ours, and the residual's alone as peers take it."""
    at = BURGERS.problem.domain.sample(points)
    peers = {"deepxde": deepxde_way, "nested": nested_way}
    ways = {"ours": lambda: objective.gradient(theta)}
    ways |= {name: way(objective.network, at, BURGERS) for name, way in peers.items()}
    return {name: 1e3 * taken for name, taken in medians(ways, repeats).items()}


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--points", type=int, default=10_240)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/steps.json"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    problem = Burgers(nu=0.01 / math.pi)
    network = MLP(problem.domain, width=64, depth=4, periodic=problem.periodic)
    network = adapt(network, rank=8, initializer="balanced").double()
    objective = Objective(problem, network, Blocks(network), first_points(problem, arguments.points, seed=0))
    theta = objective.blocks.read(network)
    seeing = [lift for lift in names(lifts) if find(lifts, Lift, lift).uses_metric]
    learning = [{"name": "adafactor", "source": source} for source in ("factors", "dense")]
    ways = [(lift, {"name": "identity"}) for lift in names(lifts)] + list(product(seeing, learning))
    rows, side = [], gradients(objective, theta, arguments.points, arguments.repeats)
    print("one gradient, ms: " + ", ".join(f"{name} {taken:.1f}" for name, taken in side.items()))
    print(f"{'lift':>16} {'metric':>20} {'gradient ms':>12} {'dense ms':>9} {'own work ms':>12} {'share':>7}")
    for lift, metric in ways:
        row = measure(objective, theta, lift, metric, arguments.repeats)
        rows.append(row)
        times, named = row["milliseconds"], " ".join(metric.values())
        dense = f"{times['dense']:9.1f}" if "dense" in times else " " * 9
        print(
            f"{lift:>16} {named:>20} {times['gradient']:12.1f} {dense} {times['own']:12.2f} {row['share']:7.2%}",
            flush=True,
        )
    about = {"machine": machine(), "points": arguments.points, "repeats": arguments.repeats}
    write(arguments.out, {**about, "gradients": side, "rows": rows})


if __name__ == "__main__":
    main()
