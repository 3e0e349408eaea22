"""What one implicit step takes of memory, measured in a process of its own: `peak_of` starts it, `main` is it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import lower, memory, objective, solvers
from pinn_lora.catalog import find
from pinn_lora.flow import Flow
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import Blocks
from pinn_lora.metrics.identity import Identity
from pinn_lora.points import first_points
from pinn_lora.solvers import Solver


def peak_of(solver: str, **sizes: object) -> dict[str, float]:
    """MiB: "peak" above what the process held before the step, "plan" of the solver and of the points that go through the
    network together ("chunk"), and "kept" of J, which the normal matrix keeps where there is room."""
    # small blocks are given back at once, so that the peak is what the step holds and not what malloc keeps
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__)), solver, json.dumps(sizes)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def flow_of(width: int, depth: int, rank: int, points: int, single: bool) -> tuple[Flow, torch.Tensor]:
    """Burgers with factors of this rank; 0: all weights."""
    problem = Burgers(nu=0.1)
    network = pl.MLP(problem.domain, width=width, depth=depth, periodic=problem.periodic)
    network = network.float() if single else network
    if rank:
        network = pl.adapt(network, rank=rank, initializer="balanced")
    found = pl.Objective(problem, network, Blocks(network), first_points(problem, points, seed=1))
    return Flow(found, Balanced(), Identity()), found.blocks.read(network)


def main() -> None:
    solver, wanted = sys.argv[1], json.loads(sys.argv[2])
    if "together" in wanted:
        points = wanted.pop("together")
        objective.points_together = lambda *sizes: points
    if solver != "cg":  # a factor that fails takes the most
        lower.factor = lambda matrix: None
    for sizes in ({**wanted, "width": 16, "points": 40}, wanted):  # the first loads what is loaded once
        flow, theta = flow_of(**sizes)
        before = memory._line(memory._STATUS, "VmRSS:")
        memory.reset_peak_memory()
        d = flow.system(theta, solver).solve(1.0, 0.1)
        peak = memory.peak_memory_mib() - before
    assert d.isfinite().all()
    plan = find(solvers, Solver, solver).gib(flow.objective.rows, flow.objective.size)
    kept = 8 * flow.objective.rows * flow.objective.size / 2**20 if solver == "cholesky" else 0.0
    print(json.dumps({"peak": peak, "plan": 1024 * plan, "chunk": 1024 * flow.objective.chunk_gib, "kept": kept}))


if __name__ == "__main__":
    main()
