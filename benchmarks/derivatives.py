"""Seconds for the loss of Burgers' residual and its gradient, one thread, side by side with DeepXDE's own code.

    python benchmarks/derivatives.py            # all cases, about ten minutes; writes results/benchmarks/derivatives.json
    python benchmarks/derivatives.py --quick    # the two main cases with fewer repetitions

Every way works on the same network, the same points and the same trained numbers: all weights, or the rank-8 factors of
the hidden layers on a frozen base. `deepxde` is dde.grad.jacobian and dde.grad.hessian, mean square, loss.backward();
`nested` is the same with torch.autograd.grad; `plain` and `compiled` are Objective.gradient. The ways take turns within
one run, so that a busy machine slows all of them, and the table has medians. Compiling, with an empty cache, is timed apart.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

os.environ["DDE_BACKEND"] = "pytorch"  # DeepXDE reads it when it is imported, as TorchInductor does with the next
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _cache = tempfile.mkdtemp(prefix="derivatives-")

import torch
from pinn_lora.problems.burgers import Burgers

from pinn_lora.lora import Blocks, adapt
from pinn_lora.networks.mlp import MLP
from pinn_lora.objective import Objective

Way = Callable[[], tuple[float, torch.Tensor]]

SIZES = [(4, 64, 10_240), (4, 128, 10_240), (3, 32, 2_560)]  # depth, width, points
RANK = 8
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}  # of loss and gradient, relative to the largest entry


@dataclass(frozen=True)
class ResidualOnly(Burgers):
    """The residual term alone, of the network's output as it is."""

    form: str = "soft"

    def conditions(self):
        return []


def backward(network: torch.nn.Module, points: torch.Tensor, residual: Callable) -> Way:
    """Mean square of residual(x, network(x)), and loss.backward() to everything trained."""
    trained = list(network.parameters())

    def run() -> tuple[float, torch.Tensor]:
        x = points.clone().requires_grad_()
        for parameter in trained:
            parameter.grad = None
        loss = residual(x, network(x)).square().mean()
        loss.backward()
        gradients = [p.grad for p in trained if p.grad is not None]
        return loss.item(), torch.cat([g.reshape(-1) for g in gradients])

    return run


def deepxde_way(network: torch.nn.Module, points: torch.Tensor, nu: float) -> Way:
    device = torch.get_default_device()
    dde: Any = importlib.import_module("deepxde")  # here, not above: it prints, and may set the default device
    if torch.get_default_device() != device:  # on a GPU machine DeepXDE sets it
        torch.set_default_device(None)  # the way back that leaves nothing around every later operation
    if dde.backend.backend_name != "pytorch":
        raise RuntimeError(f"DeepXDE runs on {dde.backend.backend_name}; this comparison needs its PyTorch backend")

    def residual(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        dde.gradients.clear()  # as deepxde.Model does before every evaluation
        u_x, u_t = dde.grad.jacobian(u, x, i=0, j=0), dde.grad.jacobian(u, x, i=0, j=1)
        return u_t + u * u_x - nu * dde.grad.hessian(u, x, i=0, j=0)

    return backward(network, points, residual)


def nested_way(network: torch.nn.Module, points: torch.Tensor, nu: float) -> Way:
    def residual(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)
        return first[:, 1] + u[:, 0] * first[:, 0] - nu * second[:, 0]

    return backward(network, points, residual)


def ways_of(case: tuple, dtype: torch.dtype) -> tuple[dict[str, Way], float]:
    """The ways by name, and the seconds that compiling took."""
    depth, width, n, factors = case
    problem = ResidualOnly()
    network = MLP(problem.domain, width=width, depth=depth, dtype=dtype)
    if factors:
        network = adapt(network, rank=RANK, initializer="balanced")
    blocks, points = Blocks(network), problem.domain.sample(n)
    theta, sets = blocks.read(network), {"residual": (points,)}
    ways = {
        "deepxde": deepxde_way(network, points.to(dtype), problem.nu),
        "nested": nested_way(network, points.to(dtype), problem.nu),
    }
    for name in ("plain", "compiled"):
        objective = Objective(problem, network, blocks, sets, compile=name == "compiled")
        ways[name] = lambda objective=objective: objective.gradient(theta)
    start = time.perf_counter()
    ways["compiled"]()
    return ways, time.perf_counter() - start


def check(ways: dict[str, Way], tolerance: float) -> dict[str, float]:
    """How far every way's loss and gradient are from the first one's; RuntimeError beyond the tolerance."""
    found = {name: way() for name, way in ways.items()}
    loss, gradient = next(iter(found.values()))
    errors = {}
    for name, (f, g) in found.items():
        errors[name] = max(abs(f - loss) / loss, float((g - gradient).abs().max() / gradient.abs().max()))
        if not errors[name] <= tolerance:
            raise RuntimeError(f"{name} differs from the first way by {errors[name]:.1e}, more than {tolerance:.0e}")
    return errors


def medians(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Milliseconds; the ways take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 2):  # two rounds to warm up
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times[2:]) for name, times in taken.items()}


def measure(case: tuple, dtype: torch.dtype, repeats: int) -> dict:
    depth, width, n, factors = case
    ways, compile_seconds = ways_of(case, dtype)
    errors = check(ways, TOLERANCE[dtype])
    times = medians(ways, repeats)
    return {
        "network": f"{depth} x {width}",
        "points": n,
        "trained": f"rank-{RANK} factors" if factors else "all weights",
        "dtype": str(dtype).removeprefix("torch."),
        "milliseconds": times,
        "times_as_fast_as_deepxde": {name: times["deepxde"] / t for name, t in times.items()},
        "compile_seconds": compile_seconds,
        "largest_relative_difference": errors,
    }


def line(row: dict) -> str:
    times, ratios = row["milliseconds"], row["times_as_fast_as_deepxde"]
    return (
        f"{row['network']:>8} {row['points']:>7} {row['trained']:>15} {row['dtype']:>8}"
        + "".join(f"{times[name]:>10.1f}" for name in ("deepxde", "nested", "plain", "compiled"))
        + f"{ratios['plain']:>8.2f}x{ratios['compiled']:>9.2f}x{row['compile_seconds']:>11.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two main cases, five repetitions")
    parser.add_argument("--repeats", type=int, help="repetitions of each way (default: 15, quick 5)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/derivatives.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    repeats = arguments.repeats or (5 if arguments.quick else 15)
    sizes, trained = (SIZES[:1], (False,)) if arguments.quick else (SIZES, (False, True))
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    rows, head = [], f"{'network':>8} {'points':>7} {'trained':>15} {'dtype':>8}"
    tolerances = ", ".join(f"{value:.0e} in {str(dtype).removeprefix('torch.')}" for dtype, value in TOLERANCE.items())
    print(f"milliseconds, median of {repeats}, one thread; all ways agree to {tolerances}")
    print(
        head
        + f"{'deepxde':>10}{'nested':>10}{'plain':>10}{'compiled':>10}{'plain':>9}{'compiled':>10}{'compiling s':>12}"
    )
    for dtype, size, factors in product(TOLERANCE, sizes, trained):
        rows.append(measure((*size, factors), dtype, repeats))
        print(line(rows[-1]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "repeats": repeats, "rows": rows}, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
