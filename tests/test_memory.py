"""Memory: what a step may take, what it takes, and the sentence where that is too little."""

import dataclasses
from pathlib import Path

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from step_peak import peak_of

import pinn_lora as pl
from pinn_lora import memory, solvers
from pinn_lora.catalog import find, names
from pinn_lora.flow import Flow, solver_of
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import Blocks
from pinn_lora.metrics.identity import Identity
from pinn_lora.points import first_points
from pinn_lora.solvers import Solver

CPU = torch.device("cpu")


def factors(n: int, **options) -> pl.Objective:
    problem = Burgers(nu=0.1)
    network = pl.adapt(pl.MLP(problem.domain, periodic=problem.periodic), rank=4, initializer="balanced")
    return pl.Objective(problem, network, Blocks(network), first_points(problem, n, seed=1), **options)


def test_room_is_what_is_free_and_no_more_than_allowed(monkeypatch):
    cases = ((2048.0, None, 2.0), (2048.0, 0.5, 0.5), (2048.0, 9.0, 2.0), (None, 3.0, 3.0), (None, None, None))
    for free, given, room in cases:
        monkeypatch.setattr(memory, "available_mib", lambda device, free=free: free)
        assert memory.room_gib(CPU, given) == room


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not track a peak")
def test_a_step_never_holds_a_large_jacobian_whole():
    """40,000 residuals, 384 unknowns: J alone would be 117 MiB; the chunks, H and its factor stay below a third of it."""
    objective = factors(40_000)
    theta = objective.blocks.read(objective.network)
    assert objective.size == 384
    objective.value(theta)
    before = memory._line(memory._STATUS, "VmRSS:")
    memory.reset_peak_memory()
    d = Flow(objective, Balanced(), Identity()).system(theta).solve(1.0, 0.1)
    assert d.isfinite().all()
    assert memory.peak_memory_mib() - before < 39.0


SIZES = {  # of every solver: what its plan is mostly made of
    "cholesky": [{"width": 64, "depth": 3, "rank": 4, "points": 2000}],
    "kernel": [
        {"width": 64, "depth": 3, "rank": 0, "points": 1500},  # J
        {"width": 128, "depth": 4, "rank": 16, "points": 400},  # M^-1 on rows of J
        {"width": 32, "depth": 3, "rank": 0, "points": 2000},  # K
    ],
}
CASES = [(name, sizes) for name in names(solvers) for sizes in SIZES.get(name, SIZES["kernel"][1:2])]


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="the system does not track a peak")
@pytest.mark.parametrize(("solver", "sizes"), CASES, ids=str)
def test_a_step_takes_what_its_solver_says(solver, sizes):
    """The plan and the points that go through the network together, and a good part of that: a plan that says too much keeps
    a solver from being chosen. Where a factor fails: the other way is in the plan, too."""
    found = peak_of(solver, together=64, single=False, **sizes)
    assert found["plan"] > 50
    held = found["plan"] + found["kept"]
    assert 0.6 * held < found["peak"] < 1.05 * held + found["chunk"], found


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="the system does not track a peak")
@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
def test_the_points_that_go_together_are_planned_beside_the_solver(single):
    """500 points, or 833 in float32, whose Jacobian in all weights is more than all that conjugate gradients hold."""
    found = peak_of("cg", single=single, width=64, depth=4, rank=0, points=2500)
    assert 1.5 * found["plan"] < found["peak"] < 1.05 * (found["plan"] + found["chunk"]), found


def test_a_solver_whose_points_do_not_fit_is_refused(monkeypatch):
    objective = factors(3000)
    theta, kinds = objective.blocks.read(objective.network), [find(solvers, Solver, name) for name in names(solvers)]
    alone = min(kind.gib(objective.rows, objective.size) for kind in kinds)
    for room, fits in ((alone + 0.95 * objective.chunk_gib, False), (alone + 1.05 * objective.chunk_gib, True)):
        monkeypatch.setattr(memory, "available_mib", lambda device, room=room: 1024 * room)
        if fits:
            assert solver_of(objective, theta).gib(objective.rows, objective.size) == alone
        else:
            with pytest.raises(MemoryError, match="GiB are free; train fewer unknowns"):
                solver_of(objective, theta)


@pytest.mark.parametrize("name", names(solvers))
def test_the_max_memory_that_is_advised_is_enough(name, monkeypatch):
    """With more room more points go together, and what they take is in the advice."""
    monkeypatch.setattr(memory, "available_mib", lambda device: 65536.0)
    tight = factors(3000, max_memory=1e-6)
    theta = tight.blocks.read(tight.network)
    with pytest.raises(MemoryError) as refused:
        solver_of(tight, theta, name)
    advised = float(str(refused.value).rpartition("give max_memory=")[2].split()[0])
    assert solver_of(dataclasses.replace(tight, max_memory=advised), theta, name) is find(solvers, Solver, name)


@dataclasses.dataclass(frozen=True)
class Measured(pl.Problem):
    """A known value at many points."""

    domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t - u.xx

    def conditions(self):
        points = self.domain.sample(20_000, seed=4)
        return [pl.data(points, points[:, 0])]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not track a peak")
def test_max_memory_bounds_a_step_on_data():
    """20,000 values, 384 unknowns: their Jacobian would be 59 MiB, and twice that with what makes it."""
    problem = Measured()
    network = pl.adapt(pl.MLP(problem.domain), rank=4, initializer="balanced")
    points = first_points(problem, 1000, seed=0)
    objective = pl.Objective(problem, network, Blocks(network), points, max_memory=0.02)
    theta = objective.blocks.read(network)
    assert objective.size == 384
    objective.value(theta)
    before = memory._line(memory._STATUS, "VmRSS:")
    memory.reset_peak_memory()
    d = Flow(objective, Balanced(), Identity()).system(theta).solve(1.0, 0.1)
    assert d.isfinite().all()
    assert memory.peak_memory_mib() - before < 0.02 * 1024


def test_what_the_device_has_free_bounds_data_without_an_argument(monkeypatch):
    problem = Measured()
    network = pl.adapt(pl.MLP(problem.domain), rank=4, initializer="balanced")
    points = first_points(problem, 100, seed=0)
    monkeypatch.setattr(memory, "available_mib", lambda device: 64.0)
    tight = pl.Objective(problem, network, Blocks(network), points)
    monkeypatch.setattr(memory, "available_mib", lambda device: None)
    ample = pl.Objective(problem, network, Blocks(network), points)
    assert len(ample.chunks) == 2 and len(tight.chunks) > 16


def test_little_memory_means_small_chunks_and_the_same_numbers():
    plain = factors(3000)
    tight = dataclasses.replace(plain, max_memory=0.01)
    theta = plain.blocks.read(plain.network)
    assert len(tight.chunks) >= 4 * len(plain.chunks)
    for found, expected in zip(tight.gauss_newton(theta)[1:], plain.gauss_newton(theta)[1:], strict=True):
        assert (found - expected).norm() < 1e-12 * expected.norm()


def test_what_cannot_fit_is_said_by_training_before_its_first_step():
    options = {"width": 8, "depth": 2, "points": 60, "method": "full-lm", "max_steps": 1}
    with pytest.raises(
        MemoryError, match=r"^the solver .* for \d+ unknowns .* or give max_memory=0.01 instead of 1e-06$"
    ):
        pl.pretrain(Burgers(nu=0.1), max_memory=1e-6, **options)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="it must be a positive number of GiB"):
            pl.pretrain(Burgers(nu=0.1), max_memory=wrong, **options)
    assert pl.pretrain(Burgers(nu=0.1), max_memory=1.0, **options).history[-1].step == 1


def test_max_memory_is_advised_only_where_the_machine_has_as_much():
    said = lambda **given: str(memory.no_room("step", 3.0, advice="take less", **given))  # noqa: E731
    assert said(room=0.5, max_memory=0.5, free=4.0) == (
        "the step takes 3 GiB; take less, or give max_memory=3 instead of 0.5"
    )
    assert said(room=0.5, max_memory=0.5, free=2.0) == (
        "the step takes 3 GiB, above max_memory=0.5 and the 2 GiB free; take less"
    )
    assert said(room=2.0, max_memory=2.5, free=2.0) == "the step takes 3 GiB and 2 GiB are free; take less"


def test_fewer_points_are_advised_where_the_residuals_are_what_does_not_fit(monkeypatch):
    """A step through the residuals' kernel holds J; the normal matrix of all weights knows no number of points."""
    monkeypatch.setattr(memory, "available_mib", lambda device: 0.01)
    objective = factors(3000)
    theta = objective.blocks.read(objective.network)
    for name, fewer in (("kernel", True), ("cholesky", False)):
        with pytest.raises(MemoryError) as refused:
            solver_of(objective, theta, name)
        assert ("or take fewer points" in str(refused.value)) == fewer
