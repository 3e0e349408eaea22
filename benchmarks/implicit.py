"""One implicit step against its floor, its solvers side by side, and one at a million points.

    python benchmarks/implicit.py    # some minutes; writes results/benchmarks/implicit.json

Burgers, 3,000 points, one thread, float64, seconds of CPU. `steps`: medians of ways that take turns. `system`: the Gauss-Newton
system made and solved for one h, which is what the floor is the floor of; `step`: the step as it is taken by default, which
also tries the new point, bends (two evaluations, a product with J^T and a second solve) and reckons what it gains. `floor`: a
forward and an adjoint pass (one gradient), the symmetric product J^T J at the rate of this machine's matrix products (N P^2
operations), and a Cholesky factor. `deepxde`: loss and gradient by dde.grad of the residual at as many points, all weights of
the plain network. `solvers`: all weights, the second of two steps by each solver that fits, with the decrease that its d
predicts, relative to the first one's. `million`: the process's peak memory, points and all, over one step at a million points.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from derivatives import deepxde_way
from equations import BURGERS
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, medians, write

import pinn_lora as pl
from pinn_lora import lower, solvers
from pinn_lora.catalog import find
from pinn_lora.flow import Flow
from pinn_lora.integrators.rosenbrock_euler import RosenbrockEuler
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import Blocks
from pinn_lora.memory import peak_memory_mib, reset_peak_memory
from pinn_lora.metrics.identity import Identity
from pinn_lora.networks.mlp import MLP
from pinn_lora.points import first_points
from pinn_lora.solvers import Solver

FACTORS = [(3, 24, 4), (4, 64, 4), (4, 64, 8), (4, 128, 4)]  # depth, width, rank
AIM = 1.5


def objective_of(depth: int, width: int, rank: int | None, n: int) -> pl.Objective:
    problem = Burgers(nu=0.01 / math.pi)
    network = pl.MLP(problem.domain, width=width, depth=depth, periodic=problem.periodic)
    if rank is not None:
        network = pl.adapt(network, rank=rank, initializer="balanced")
    return pl.Objective(problem, network, Blocks(network), first_points(problem, n, seed=0))


def flow_of(objective: pl.Objective) -> Flow:
    return Flow(objective, Balanced(), Identity())


def system_of(objective: pl.Objective, theta: torch.Tensor, name: str | None = None) -> Solver:
    return flow_of(objective).system(theta.clone(), name)


def factor_step(depth: int, width: int, rank: int, n: int, repeats: int) -> dict:
    objective = objective_of(depth, width, rank, n)
    theta, P = objective.blocks.read(objective.network), objective.size
    points = BURGERS.problem.domain.sample(n)
    H = objective.gauss_newton(theta)[2]
    H.diagonal().add_(1.0)
    scratch = torch.empty_like(H)
    J = torch.randn(1024, P, dtype=torch.float64)
    half = torch.randn(P, 1024, dtype=torch.float64)
    ways = {
        "system": lambda: system_of(objective, theta).solve(1.0, 0.1),
        "step": lambda: RosenbrockEuler().step(flow_of(objective), theta.clone(), 1.0),
        "gradient": lambda: objective.gradient(theta),
        "deepxde": deepxde_way(MLP(BURGERS.problem.domain, width=width, depth=depth), points, BURGERS),
        "gemm": lambda: half[: min(P, 1024)] @ J,  # its rate, at shapes that a BLAS likes
        "cholesky": lambda: lower.factor(scratch.copy_(H)),  # in memory that is there
    }
    found = medians(ways, repeats)
    rate = 2.0 * min(P, 1024) * 1024 * P / found["gemm"]
    floor = found["gradient"] + objective.rows * P**2 / rate + found["cholesky"]
    return {
        "network": f"{depth} x {width}, rank {rank}",
        "unknowns": P,
        "milliseconds": {name: 1e3 * seconds for name, seconds in found.items()},
        "gflops": rate / 1e9,
        "floor": 1e3 * floor,
        "ratio": found["system"] / floor,
        "aim": AIM,
        "step over": {"floor": found["step"] / floor, **{k: found["step"] / found[k] for k in ("gradient", "deepxde")}},
    }


def all_weights(depth: int, width: int, n: int, h: float, names: list[str]) -> list[dict]:
    objective, rows, first = objective_of(depth, width, None, n), [], None
    theta = objective.blocks.read(objective.network)
    for name in names:
        for _ in range(2):  # the first one warms up
            start = time.process_time()
            system = system_of(objective, theta, name)
            d = system.solve(h, 0.1)
            seconds = time.process_time() - start
        predicted = system.predicted(d)
        first = predicted if first is None else first
        gib = find(solvers, Solver, name).gib(objective.rows, objective.size)
        rows.append(
            {
                "network": f"{depth} x {width}, all {objective.size} weights, {n} points, h = {h:g}",
                "solver": name,
                "seconds": seconds,
                "gib": gib,
                "predicted": predicted / first,
                "falls to": objective.value(theta + d) / system.value,
            }
        )
        print(rows[-1], flush=True)
    return rows


def million(n: int = 1_000_000) -> dict:
    """384 unknowns: the whole Jacobian would be 2.9 GiB."""
    reset_peak_memory()
    objective = objective_of(3, 24, 4, n)
    theta = objective.blocks.read(objective.network)
    start = time.process_time()
    system_of(objective, theta, "cholesky").solve(1.0, 0.1)
    seconds, peak = time.process_time() - start, peak_memory_mib()
    return {"points": n, "unknowns": objective.size, "seconds": seconds, "peak_gib": peak and peak / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the two smallest networks")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/implicit.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    large = None if arguments.quick else million()
    print(large, flush=True)
    steps = []
    for shape in FACTORS[: 2 if arguments.quick else None]:
        steps.append(factor_step(*shape, arguments.points, arguments.repeats))
        print(steps[-1], flush=True)
    solved = all_weights(3, 24, arguments.points, 1e2, ["cholesky", "kernel", "cg"])
    if not arguments.quick:
        solved += all_weights(4, 128, arguments.points // 3, 1e2, ["kernel", "cg"])
    found = {"machine": machine(), "points": arguments.points, "steps": steps, "solvers": solved, "million": large}
    write(arguments.out, found)


if __name__ == "__main__":
    main()
