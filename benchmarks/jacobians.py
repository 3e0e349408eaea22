"""CPU seconds of the residuals' Jacobian in what is trained, one thread, side by side with torch.func.

    python benchmarks/jacobians.py            # all cases, some minutes; writes results/benchmarks/jacobians.json
    python benchmarks/jacobians.py --quick    # one network at points that are too few to compile for: shows that it runs

Burgers' residual alone, on the same network, points and unknowns. `plain` and `compiled` are Objective.jacobian.
`forward` and `reverse` are vmap of grad of one point's residual in the trained tensors, its derivatives in the coordinates by
nested jvp or nested grad. `jacrev` is that of the vector of all residuals, by nested grad and a block of rows at a time: it
takes every row's adjoint through all points, so it is run at the narrow network alone and once. `times` is the least of
torch.func's ways over ours. The ways take turns within one run, and the table has medians.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from equations import BURGERS
from side_by_side import Way, differences, machine, medians, write
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, jacrev, jvp, vmap

import pinn_lora as pl
from pinn_lora.lora import Blocks

SIZES = [(3, 24), (4, 64)]  # depth, width
TRAINED: dict[str, dict[str, Any] | None] = {
    "rank-4 factors": {"rank": 4},
    "rank-8 factors": {"rank": 8},
    "rank-4 factors, biases, output layer": {"rank": 4, "train_biases": True, "train_output": True},
    "all weights": None,
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}  # of residuals and Jacobian, relative to the largest entry
NU = 0.01 / math.pi
ROWS = 50  # of jacrev, together
AIM = 8.0


@dataclass(frozen=True)
class Functional:
    """The residuals over the root of their number, as in R, and their Jacobian, by torch.func."""

    objective: pl.Objective
    theta: Tensor
    points: Tensor
    nu: float

    def network(self, parameters: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: functional_call(self.objective.network, parameters, (x[None],))[0, 0]

    def forward(self, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """One point's residual, by nested forward mode; twice, as grad(has_aux=True) wants it."""
        u, (along, later) = self.network(parameters), torch.eye(2, dtype=x.dtype)
        slope = lambda x: jvp(u, (x,), (along,))[1]  # noqa: E731
        (u_x, u_xx), (value, u_t) = jvp(slope, (x,), (along,))[:2], jvp(u, (x,), (later,))[:2]
        return self._residual(value, u_x, u_t, u_xx)

    def reverse(self, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """The same by nested reverse mode."""
        u = self.network(parameters)

        def u_x(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            first, value = grad_and_value(u)(x)
            return first[0], (first, value)

        second, (first, value) = grad(u_x, has_aux=True)(x)
        return self._residual(value, first[0], first[1], second[0])

    def _residual(self, u: Tensor, u_x: Tensor, u_t: Tensor, u_xx: Tensor) -> tuple[Tensor, Tensor]:
        r = (u_t + u * u_x - self.nu * u_xx) / math.sqrt(len(self.points))
        return r, r

    def by_grad(self, residual: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        found, R = vmap(grad(residual, has_aux=True), (None, 0))(self._trained(), self.points)
        return R, self._rows(found)

    def by_jacrev(self) -> tuple[Tensor, Tensor]:
        every = lambda trained: vmap(self.reverse, (None, 0))(trained, self.points)  # noqa: E731
        found, R = jacrev(every, has_aux=True, chunk_size=ROWS)(self._trained())
        return R, self._rows(found)

    def _trained(self) -> dict[str, Tensor]:
        return self.objective.blocks.parameters(self.theta)

    def _rows(self, found: dict[str, Tensor]) -> Tensor:
        """J (N, P), the columns in theta's order."""
        keys = [key for block in self.objective.blocks.blocks for key in block.keys]
        return torch.cat([found[key].reshape(len(self.points), -1) for key in keys], dim=1)


def ways_of(size: tuple[int, int], trained: str, dtype: torch.dtype, n: int) -> tuple[dict[str, Way], int]:
    """The ways by name, and the number of unknowns."""
    problem, options = BURGERS.problem, TRAINED[trained]
    network = pl.MLP(problem.domain, depth=size[0], width=size[1], dtype=dtype)
    if options is not None:
        network = pl.adapt(network, initializer="balanced", **options)
    blocks, points = Blocks(network), problem.domain.sample(n).to(dtype)
    theta, sets = blocks.read(network), {"residual": (points,)}
    plain, compiled = (pl.Objective(problem, network, blocks, sets, compile=on) for on in (False, True))
    peer = Functional(plain, theta, points, NU)
    ways: dict[str, Way] = {
        "plain": lambda: plain.jacobian(theta),
        "compiled": lambda: compiled.jacobian(theta),
        "forward": lambda: peer.by_grad(peer.forward),
        "reverse": lambda: peer.by_grad(peer.reverse),
        "jacrev": peer.by_jacrev,
    }
    if size != SIZES[0]:
        del ways["jacrev"]
    return ways, blocks.size


def measure(size: tuple[int, int], trained: str, dtype: torch.dtype, n: int, repeats: int) -> dict:
    ways, unknowns = ways_of(size, trained, dtype, n)
    errors = differences(ways, TOLERANCE[dtype])
    times = medians({name: way for name, way in ways.items() if name != "jacrev"}, repeats)
    if "jacrev" in ways:
        times |= medians({"jacrev": ways["jacrev"]}, 1)
    best = min((name for name in times if name not in ("plain", "compiled")), key=lambda name: times[name])
    return {
        "network": f"{size[0]} x {size[1]}",
        "points": n,
        "trained": trained,
        "unknowns": unknowns,
        "dtype": str(dtype).removeprefix("torch."),
        "milliseconds": {name: 1e3 * seconds for name, seconds in times.items()},
        "best of torch.func": best,
        "times": {name: times[best] / times[name] for name in ("plain", "compiled")},
        "aim": AIM,
        "largest_relative_difference": errors,
    }


def line(row: dict) -> str:
    times = row["milliseconds"]
    return (
        f"{row['network']:>7} {row['trained']:>37} {row['unknowns']:>8} {row['dtype']:>8}"
        + "".join(f"{times[name]:>10.1f}" for name in ("plain", "compiled", "forward", "reverse"))
        + (f"{times['jacrev']:>10.1f}" if "jacrev" in times else " " * 10)
        + "".join(f"{row['times'][name]:>8.2f}x" for name in ("plain", "compiled"))
    )


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one network, few points, one repetition")
    parser.add_argument("--repeats", type=int, help="repetitions of each way (default: 9, quick 1)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/jacobians.json"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    repeats, n = arguments.repeats or (1 if arguments.quick else 9), 100 if arguments.quick else 1000
    tolerances = ", ".join(f"{value:.0e} in {str(dtype).removeprefix('torch.')}" for dtype, value in TOLERANCE.items())
    print(f"CPU milliseconds, {n} points, median of {repeats}, one thread; all ways agree to {tolerances}")
    print(
        f"{'network':>7} {'trained':>37} {'unknowns':>8} {'dtype':>8}"
        + "".join(f"{name:>10}" for name in ("plain", "compiled", "forward", "reverse", "jacrev"))
        + f"{'plain':>9}{'compiled':>9}"
    )
    rows = []
    for size, dtype, trained in product(SIZES[: 1 if arguments.quick else None], TOLERANCE, TRAINED):
        rows.append(measure(size, trained, dtype, n, repeats))
        print(line(rows[-1]), flush=True)
    write(arguments.out, {"machine": machine(), "repeats": repeats, "rows": rows})


if __name__ == "__main__":
    main()
