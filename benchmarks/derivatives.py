"""CPU seconds for the loss of a residual and its gradient, one thread, side by side with DeepXDE's own code and with JAX.

    python benchmarks/derivatives.py            # all cases, some twenty minutes; writes results/benchmarks/derivatives.json
    python benchmarks/derivatives.py --quick    # the main case of each equation with fewer repetitions
    python benchmarks/derivatives.py --only Helmholtz    # the cases of these equations alone

Every way works on the same network, the same points and the same trained numbers: all weights, or the rank-8 factors of
the hidden layers on a frozen base. `deepxde` is dde.grad.jacobian and dde.grad.hessian, mean square, loss.backward();
`nested` is the same with torch.autograd.grad; `jax` is jax.jit of value_and_grad with the derivatives by nested jvp or by
nested reverse mode, at all points together or by lax.scan over chunks of them, the quickest (all are in the file); `plain` and
`compiled` are Objective.gradient. The ways take turns within one run on one core, so that a busy machine slows all of them, and
the table has medians. Compiling, with an empty cache, is timed apart by the wall clock, and takes nothing for a shape that an
earlier row has; JAX's is not timed. A row ends with the aims that it misses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from equations import BURGERS, EQUATIONS, Equation
from jax_way import FLAGS, MISSING, jax_ways, load, one_core, share_of_wall
from side_by_side import Way, differences, environment, machine, medians, write

from pinn_lora.dde.load import load_deepxde
from pinn_lora.lora import Blocks, adapt
from pinn_lora.networks.mlp import MLP
from pinn_lora.objective import Objective

MAIN, SIZES = (4, 64, 10_240), [(4, 64, 10_240), (4, 128, 10_240), (3, 32, 2_560)]  # depth, width, points
RANK = 8
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}  # of loss and gradient, relative to the largest entry
COLUMNS = ("deepxde", "nested", "jax", "plain", "compiled")
RATIOS = (("plain", "deepxde"), ("compiled", "deepxde"), ("plain", "jax"), ("compiled", "jax"))


@dataclass(frozen=True)
class Case:
    """One row: what is differentiated, in what, at how many points."""

    equation: Equation
    size: tuple[int, int, int]  # depth, width, points
    factors: bool
    dtype: torch.dtype

    @property
    def aims(self) -> dict[str, float]:
        """How many times as fast: by the names of two columns."""
        depth, width, _ = self.size
        narrow = width == 64 and self.dtype == torch.float32
        aims = {"plain, deepxde": 1.3, "compiled, jax": 1.5 if narrow else 1.0}
        if (depth, width) == (4, 64):
            aims["compiled, deepxde"] = 3.0 if self.factors else 2.3
        elif self.size == (3, 32, 2_560):
            aims["compiled, deepxde"] = 2.5
        return aims


def cases(quick: bool, only: list[str]) -> list[Case]:
    """Burgers at every size with all weights and with factors, the others at the main size with all weights."""
    found = []
    for dtype in TOLERANCE:
        for equation in EQUATIONS:
            sizes, trained = ([MAIN], [False]) if quick or equation is not BURGERS else (SIZES, [False, True])
            found += [Case(equation, size, factors, dtype) for size in sizes for factors in trained]
    return [case for case in found if case.equation.name in only]


def backward(network: torch.nn.Module, points: torch.Tensor, residual: Callable) -> Way:
    """Mean square of residual(x, network(x)), and loss.backward() to everything trained."""
    trained = list(network.parameters())

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        x = points.clone().requires_grad_()
        for parameter in trained:
            parameter.grad = None
        loss = residual(x, network(x)).square().mean()
        loss.backward()
        gradients = [p.grad for p in trained if p.grad is not None]
        return loss.detach(), torch.cat([g.reshape(-1) for g in gradients])

    return run


def deepxde_way(network: torch.nn.Module, points: torch.Tensor, equation: Equation) -> Way:
    dde: Any = load_deepxde()

    def derivative(u: torch.Tensor, x: torch.Tensor, columns: tuple[int, ...]) -> torch.Tensor:
        if len(columns) == 1:
            return dde.grad.jacobian(u, x, i=0, j=columns[0])
        return dde.grad.hessian(u, x, i=columns[0], j=columns[1])

    def residual(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        dde.gradients.clear()  # as deepxde.Model does before every evaluation
        d = {name: derivative(u, x, equation.numbers(name)) for name in equation.needed}
        return equation.residual(x[:, 0:1], x[:, 1:2], {"u": u, "sin": torch.sin, **d})

    return backward(network, points, residual)


def nested_way(network: torch.nn.Module, points: torch.Tensor, equation: Equation) -> Way:
    def residual(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        d = {}
        for name in equation.needed:
            column, *again = equation.numbers(name)
            d[name] = first[:, column]
            if again:
                (second,) = torch.autograd.grad(first[:, column].sum(), x, create_graph=True)
                d[name] = second[:, again[0]]
        return equation.residual(x[:, 0], x[:, 1], {"u": u[:, 0], "sin": torch.sin, **d})

    return backward(network, points, residual)


def ways_of(case: Case, jax: Any) -> tuple[dict[str, Way], float]:
    """The ways by name, and the seconds that compiling took."""
    (depth, width, n), problem = case.size, case.equation.problem
    network = MLP(problem.domain, width=width, depth=depth, dtype=case.dtype)
    if case.factors:
        network = adapt(network, rank=RANK, initializer="balanced")
    blocks, points = Blocks(network), problem.domain.sample(n).to(case.dtype)
    theta, sets = blocks.read(network), {"residual": (points,)}
    ways = {
        "deepxde": deepxde_way(network, points, case.equation),
        "nested": nested_way(network, points, case.equation),
    }
    if jax is not None:
        ways |= {f"jax, {name}": way for name, way in jax_ways(jax, case.equation, network, points).items()}

    def ours(objective: Objective) -> tuple[torch.Tensor, torch.Tensor]:
        loss, gradient = objective.gradient(theta)
        return torch.tensor(loss, dtype=torch.float64), gradient

    for name in ("plain", "compiled"):
        objective = Objective(problem, network, blocks, sets, compile=name == "compiled")
        ways[name] = lambda objective=objective: ours(objective)
    start = time.perf_counter()
    ways["compiled"]()
    return ways, time.perf_counter() - start


def measure(case: Case, repeats: int, jax: Any) -> dict:
    depth, width, n = case.size
    ways, compile_seconds = ways_of(case, jax)
    errors = differences(ways, TOLERANCE[case.dtype])
    share = share_of_wall(ways["jax, jvp"]) if jax is not None else None
    times = {name: 1e3 * seconds for name, seconds in medians(ways, repeats).items()}
    if jax is not None:
        times["jax"] = min(time for name, time in times.items() if name.startswith("jax"))
    ratios = {f"{ours}, {peer}": times[peer] / times[ours] for ours, peer in RATIOS if peer in times}
    return {
        "equation": case.equation.name,
        "network": f"{depth} x {width}",
        "points": n,
        "trained": f"rank-{RANK} factors" if case.factors else "all weights",
        "dtype": str(case.dtype).removeprefix("torch."),
        "milliseconds": times,
        "times_as_fast": ratios,
        "aims": case.aims,
        "missed": [name for name, aim in case.aims.items() if name in ratios and not ratios[name] >= aim],
        "compile_seconds": compile_seconds,
        "jax_cpu_over_wall": share,
        "largest_relative_difference": errors,
    }


def line(row: dict) -> str:
    times, ratios = row["milliseconds"], row["times_as_fast"]
    missed = "; ".join(f"{name} {row['aims'][name]:g}" for name in row["missed"])
    return (
        f"{row['equation']:>10} {row['network']:>8} {row['points']:>7} {row['trained']:>15} {row['dtype']:>8}"
        + "".join(f"{times[name]:>10.1f}" if name in times else f"{'-':>10}" for name in COLUMNS)
        + "".join(f"{ratios[f'{a}, {b}']:>17.2f}x" for a, b in RATIOS if f"{a}, {b}" in ratios)
        + f"{row['compile_seconds']:>13.1f}"
        + (f"  missed: {missed}" if missed else "")
    )


def head(repeats: int, jax: Any, held: bool) -> str:
    tolerances = ", ".join(f"{value:.0e} in {str(dtype).removeprefix('torch.')}" for dtype, value in TOLERANCE.items())
    core = "held to one core" if held else "on cores that this system does not let a process choose"
    told = (
        MISSING
        if jax is None
        else f"JAX {jax.__version__} with XLA_FLAGS='{FLAGS['XLA_FLAGS']}', float64 by its own switch"
    )
    names = f"{'equation':>10} {'network':>8} {'points':>7} {'trained':>15} {'dtype':>8}"
    ratios = "".join(f"{f'{a}/{b}':>18}" for a, b in RATIOS if b != "jax" or jax is not None)
    return (
        f"CPU milliseconds of all threads, median of {repeats}, one thread, {core}; all ways agree to {tolerances}\n"
        f"{told}\n{names}" + "".join(f"{name:>10}" for name in COLUMNS) + ratios + f"{'compiling s':>13}"
    )


def main(given: list[str] | None = None) -> None:
    names = [equation.name for equation in EQUATIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the main case of each equation, five repetitions")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these equations alone")
    parser.add_argument("--repeats", type=int, help="repetitions of each way (default: 15, quick 5)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/derivatives.json"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    repeats, rows = arguments.repeats or (5 if arguments.quick else 15), []
    with tempfile.TemporaryDirectory(prefix="derivatives-") as cache, one_core() as held:
        jax = load()
        print(head(repeats, jax, held))
        with environment(TORCHINDUCTOR_CACHE_DIR=cache):  # empty, so that compiling is timed whole
            for case in cases(arguments.quick, arguments.only):
                rows.append(measure(case, repeats, jax))
                print(line(rows[-1]), flush=True)
    shares = [row["jax_cpu_over_wall"] for row in rows if jax is not None]
    if shares:
        print(
            f"JAX's CPU seconds over the wall clock's: {min(shares):.2f} to {max(shares):.2f}; one core has at most 1"
        )
    about = machine() | {"one core": held, "jax": jax and jax.__version__}
    write(arguments.out, {"machine": about, "repeats": repeats, "rows": rows})


if __name__ == "__main__":
    main()
