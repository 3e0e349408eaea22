"""Solvers of the implicit step: one d by every way, against dense least squares with the whole Jacobian and mass."""

import dataclasses
import math

import pytest
import torch
from exact import solved_exactly
from pinn_lora.problems.burgers import Burgers
from small_flows import MASSED, burgers_flow
from torch.utils._python_dispatch import TorchDispatchMode
from waits import Waits

import pinn_lora as pl
from pinn_lora import catalog, lower, solvers
from pinn_lora.flow import Flow, solver_of
from pinn_lora.integrators.rosenbrock_euler import RosenbrockEuler
from pinn_lora.lora import Blocks
from pinn_lora.metrics import Weights
from pinn_lora.objective import Work
from pinn_lora.points import first_points
from pinn_lora.products import Linearization
from pinn_lora.solvers import Solver, cg

SOLVERS = catalog.names(solvers)
EXACT = 1e-14  # the tolerance of an iteration that is to give all digits


def mixed_flow(lift="balanced", initializer="balanced", **options) -> tuple[Flow, torch.Tensor]:
    """Pairs, biases and the output layer, away from a start's special values."""
    flow, theta = burgers_flow(lift, initializer=initializer, train_biases=True, train_output=True, **options)
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    dense = torch.ones_like(theta)
    for block in flow.objective.blocks.pairs:
        dense[block.slice] = 0.0
    return flow, theta + 0.1 * noise * dense


def dense_mass(flow: Flow, theta: torch.Tensor) -> torch.Tensor:
    M = torch.eye(len(theta), dtype=torch.float64)
    for pair in flow.masses(theta).pairs:
        M[pair.place, pair.place] = pair.matrix().matrix
    return M


def least_squares_step(R, J, M, h):
    """The d of [sqrt(2) J; (M / h)^1/2] d = [-sqrt(2) R; 0]: neither J^T J nor J M^-1 J^T is formed."""
    root = torch.linalg.cholesky(M / h).T
    target = torch.cat([-math.sqrt(2) * R, torch.zeros(len(M), dtype=torch.float64)])
    return torch.linalg.lstsq(torch.cat([math.sqrt(2) * J, root]), target[:, None]).solution[:, 0]


@pytest.mark.parametrize("n", [12, 160], ids=["fewer residuals than unknowns", "more"])
@pytest.mark.parametrize("initializer", ["zero_b", "balanced"])
@pytest.mark.parametrize("lift", MASSED)
def test_every_solver_gives_the_step_of_the_least_squares_problem(lift, initializer, n):
    """d to 1e-8 at h = 1e-6 and 1 (rounding leaves up to 1e-9, by the order in which the BLAS adds); at 1e8, where the system's
    condition is some 1e12, to 1e-5 in its energy norm, which is what the model's decrease sees."""
    flow, theta = mixed_flow(lift, initializer, n=n)
    R, J = flow.objective.jacobian(theta)
    M = dense_mass(flow, theta)
    assert (len(R) < len(theta)) == (n == 12)
    for name in SOLVERS:
        system = flow.system(theta, name)
        assert system.value == pytest.approx(float(R @ R), rel=1e-12)
        torch.testing.assert_close(system.gradient, 2.0 * J.T @ R, rtol=1e-11, atol=1e-13)
        for h in (1e-6, 1.0, 1e8):
            expected, d = least_squares_step(R, J, M, h), system.solve(h, EXACT)
            if h <= 1.0:
                assert (d - expected).norm() < 1e-8 * expected.norm(), (name, h)
            A, wrong = M / h + 2.0 * J.T @ J, d - expected
            assert wrong @ (A @ wrong) < 1e-10 * (expected @ (A @ expected)), (name, h)
            decrease = float(R @ R - (R + J @ d).square().sum())
            assert system.predicted(d) == pytest.approx(decrease, rel=1e-6), (name, h)


@pytest.mark.parametrize("lift", MASSED)
@pytest.mark.parametrize("initializer", ["zero_b", "balanced"])
def test_the_inverse_mass_of_gradients_is_the_closed_form(lift, initializer):
    flow, theta = mixed_flow(lift, initializer)
    J = flow.objective.jacobian(theta)[1]
    rows = J[:10].view(2, 5, -1)
    found = flow.masses(theta).inverse(rows)
    torch.testing.assert_close(found @ dense_mass(flow, theta), rows, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.masses(theta).inverse(rows[0, 0]), found[0, 0], rtol=1e-12, atol=1e-12)


class SmallFactors(TorchDispatchMode):
    """How often a matrix of at most four rows is decomposed, or solved with."""

    count = 0
    kinds = ("eigh", "lu_factor", "solve_ex", "cholesky", "svd", "qr", "inv_ex")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "linalg" in func.name() and any(kind in func.name() for kind in self.kinds) and len(args[0]) <= 4:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"cholesky"}))
@pytest.mark.parametrize("lift", MASSED)
def test_what_a_mass_decomposes_is_decomposed_once_at_a_theta(lift, solver):
    """Two matrices a pair, however many rows M^-1 is applied to, and none for another h or other residuals."""
    flow, theta = mixed_flow(lift, n=120)
    with SmallFactors() as first:
        system = flow.system(theta, solver)
        d = system.solve(1.0, 1e-6)
    with SmallFactors() as later:
        system.solve(0.1, 1e-6)
        system.solve(0.1, 1e-6, system.residuals.flip(0))
    assert d.isfinite().all()
    assert later.count == 0
    assert first.count == (0 if lift == "chain_rule" else 2 * len(flow.objective.blocks.pairs))


def test_the_inverse_mass_sees_the_metric():
    flow, theta = mixed_flow("weighted")
    flow.weights = lambda block, pair: Weights(  # type: ignore[method-assign]
        torch.linspace(0.5, 2.0, len(pair.B)).double(), torch.linspace(3.0, 1.0, pair.A.shape[1]).double()
    )
    rows = torch.eye(len(theta), dtype=torch.float64)
    M = dense_mass(flow, theta)
    assert (M - dense_mass(*mixed_flow("weighted"))).norm() > 0.1
    torch.testing.assert_close(flow.masses(theta).inverse(rows) @ M, rows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("form", ["ansatz", "soft"])
def test_all_weights_are_blocks_with_mass_one(solver, form):
    problem = Burgers(nu=0.1, form=form)
    network = pl.MLP(problem.domain, width=5, depth=2, periodic=problem.periodic, seed=3)
    objective = pl.Objective(problem, network, Blocks(network), first_points(problem, 64, seed=1))
    flow = Flow(objective, *parts("chain_rule"))
    theta = objective.blocks.read(network)
    R, J = objective.jacobian(theta)
    expected = least_squares_step(R, J, torch.eye(len(theta), dtype=torch.float64), 3.0)
    d = flow.system(theta, solver).solve(3.0, EXACT)
    assert (d - expected).norm() < 1e-10 * expected.norm()


def parts(lift):
    flow, _ = burgers_flow(lift)
    return flow.lift, flow.metric


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_rejected_step_makes_nothing_again_but_the_solve(solver):
    flow, theta = mixed_flow()
    refusing = RosenbrockEuler(accept=10.0, solver=solver, acceleration=0.0)
    first = refusing.step(flow, theta, 1.0)
    work = dataclasses.replace(flow.objective.work)
    again = refusing.step(flow, first.theta, first.next_h)
    assert not first.accepted
    assert not again.accepted
    assert flow.objective.work == dataclasses.replace(work, residuals=work.residuals + 1, solves=work.solves + 1)
    assert work != Work()


@pytest.mark.parametrize("h", [1e-2, 1e2, 1e6])
def test_an_inexact_step_descends_and_knows_how_far(h, monkeypatch):
    """Whatever the iteration is stopped at: the predicted decrease is that of d, positive, and at most the best there is."""
    monkeypatch.setattr(cg, "RANK", 3)
    flow, theta = mixed_flow()
    R, J = flow.objective.jacobian(theta)
    exact = flow.system(theta, "cholesky")
    best = least_squares_step(R, J, dense_mass(flow, theta), h)

    def lacking(d):  # of the damped model, of which the exact step is the minimum
        return float(exact.gradient @ d + (J @ d).square().sum() + 0.5 / h * d @ (dense_mass(flow, theta) @ d))

    left = []
    for tolerance in (0.9, 0.3, 0.1, 1e-2, EXACT):
        d = flow.system(theta, "cg").solve(h, tolerance)
        assert exact.predicted(d) == pytest.approx(flow.system(theta, "cg").predicted(d), rel=1e-9)
        assert exact.predicted(d) > 0
        left.append((lacking(d) - lacking(best)) / -lacking(best))
    assert left == sorted(left, reverse=True)
    assert -1e-12 < left[-1] < 1e-3


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 1e-3])
@pytest.mark.parametrize("h", [1e2, 1e4])
def test_the_iteration_stops_where_its_residual_is_the_tolerance_of_the_gradient(h, tolerance, monkeypatch):
    """|r| <= tolerance |g| in the norm of P^-1, with r = -g - (M / h + H) d and P from whole matrices; and not an iteration
    earlier. 1e-6 of the bound for rounding in the iteration's own r."""
    monkeypatch.setattr(cg, "RANK", 3)  # so that there are some iterations
    flow, theta = mixed_flow()
    M, (_, g, H) = dense_mass(flow, theta), flow.objective.gauss_newton(theta)
    F = cg.nystroem_factor(flow.objective, theta, 3)
    made, normal = [], Linearization.normal
    monkeypatch.setattr(Linearization, "normal", lambda self, v: made.append(v) or normal(self, v))

    def size(r):
        return math.sqrt(r @ torch.linalg.solve(M / h + F @ F.T, r))

    def left():
        return size(-g - (M / h + H) @ flow.system(theta, "cg").solve(h, tolerance)) / size(g)

    assert left() <= tolerance * (1.0 + 1e-6)
    assert made
    monkeypatch.setattr(cg, "MOST", len(made) - 1)
    assert left() > tolerance * (1.0 - 1e-6)


def test_the_iteration_is_the_same_every_time():
    flow, theta = mixed_flow()
    first = flow.system(theta, "cg").solve(10.0, 0.1)
    again = mixed_flow()[0].system(theta, "cg").solve(10.0, 0.1)
    assert torch.equal(first, again)


def test_the_sketch_is_the_nystroem_approximation(monkeypatch):
    """Exact where its rank is that of H; below it, H less a positive semidefinite rest, better the more columns."""
    flow, theta = mixed_flow()
    H = flow.objective.gauss_newton(theta)[2]
    rests = []
    for rank in (5, 15, len(theta)):
        F = cg.nystroem_factor(flow.objective, theta, rank)
        assert F.shape[1] <= rank
        rest = H - F @ F.T
        assert torch.linalg.eigvalsh(rest)[0] > -1e-9 * H.norm()
        rests.append(float(rest.norm() / H.norm()))
    assert rests[0] > rests[1] > rests[2]
    assert rests[2] < 1e-10


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_system_that_is_not_finite_gives_a_step_that_is_not_finite(solver):
    flow, theta = mixed_flow()
    broken = theta.clone()
    broken[0] = torch.nan
    assert not flow.system(broken, solver).solve(1.0, 0.1).isfinite().all()


@pytest.mark.parametrize("rows", ["few", "many"])
def test_a_kernel_whose_factor_fails_is_solved_by_its_eigenvalues(monkeypatch, rows):
    """To 1e-8, as every solver; no flow was asked before, for one that was answers from the factor it kept."""
    flow, theta = mixed_flow(n=12 if rows == "few" else 64)
    R, J = flow.objective.jacobian(theta)
    M, real, eigenvalues = dense_mass(flow, theta), torch.linalg.eigh, []
    fresh = mixed_flow(n=12 if rows == "few" else 64)[0].system(theta, "kernel")
    with monkeypatch.context() as patched:
        patched.setattr(lower, "factor", lambda matrix: None)
        patched.setattr(torch.linalg, "eigh", lambda matrix: eigenvalues.append(matrix) or real(matrix))
        found = [fresh.solve(h, EXACT) for h in (1.0, 0.1)]
    assert sum(len(matrix) == len(R) for matrix in eigenvalues) == 2
    for h, d in zip((1.0, 0.1), found, strict=True):
        expected = least_squares_step(R, J, M, h)
        assert (d - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("fails", [False, True], ids=["factor", "eigenvalues"])
def test_a_kernel_is_neither_made_nor_read_above_its_diagonal(monkeypatch, fails):
    """Memory that nothing is written to holds nan; d to 1e-8, as every solver's."""
    flow, theta = mixed_flow(n=64)
    R, J = flow.objective.jacobian(theta)
    expected = least_squares_step(R, J, dense_mass(flow, theta), 1.0)
    monkeypatch.setattr(lower, "BLOCK", 10)
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "new_empty", lambda like, *size: like.new_full(size, torch.nan))
        system = mixed_flow(n=64)[0].system(theta, "kernel")
    assert system.kernel[:10, 10:].isnan().all()
    if fails:
        monkeypatch.setattr(lower, "factor", lambda matrix: None)
    d = system.solve(1.0, EXACT)
    assert (d - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("lift", MASSED)
def test_where_its_factor_fails_the_normal_matrix_still_gives_the_step(monkeypatch, lift):
    """At h = 1e16 the system's condition is some 1e20. d to 1e-6 in the energy norm against fifty digits: the Jacobian's
    condition of 1e10 times rounding. A factor, where there is one, gives 1e-5; the matrix's eigenvalues give nothing."""
    flow, theta = burgers_flow(lift)
    R, J = flow.objective.jacobian(theta)
    half = dense_mass(flow, theta) / 2e16
    monkeypatch.setattr(lower, "factor", lambda matrix: None)
    d, expected = flow.system(theta, "cholesky").solve(1e16, EXACT), solved_exactly(J, -R, half)

    def energy(v):
        return float((J @ v).square().sum() + v @ (half @ v))

    assert energy(d - expected) < 1e-12 * energy(expected)


@pytest.mark.parametrize("form", ["ansatz", "soft"])
def test_a_small_jacobian_is_kept_where_there_is_room_and_gives_the_same(form, monkeypatch):
    """Terms of several weights and points among them. J^T u to 1e-12, its rows to the last bit but for their factors."""
    flow, theta = burgers_flow(form=form, n=1300)  # three chunks
    objective = dataclasses.replace(flow.objective, weights={"residual": 3.0}, work=Work())
    J = objective.jacobian(theta)[1]
    u = torch.randn(len(J), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = 8 * J.numel() / 2**30
    beside = catalog.find(solvers, Solver, "cholesky").gib(*J.shape) + objective.chunk_gib
    for room, kept in ((None, True), (beside + 1.1 * size, True), (beside + 0.9 * size, False)):
        monkeypatch.setattr("pinn_lora.solvers.cholesky.room_gib", lambda *given, room=room: room)
        found = dataclasses.replace(objective, work=Work())
        system = Flow(found, flow.lift, flow.metric).system(theta, "cholesky")
        torch.testing.assert_close(system.pullback(u), J.T @ u, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(torch.cat(list(system.jacobian())), J, rtol=1e-15, atol=0.0)
        assert (found.work.jacobians, found.work.gradients) == ((1, 0) if kept else (2, 1))


@pytest.mark.parametrize("h", [1e12, 1e16, 1e20])
@pytest.mark.parametrize("lift", MASSED)
def test_an_iteration_that_rounding_defeats_gives_no_step_and_not_a_step_of_zero(lift, h):
    """A step of zero would say that nothing is left to gain."""
    flow, theta = mixed_flow(lift)
    d = flow.system(theta, "cg").solve(h, 0.1)
    assert d.any() or d.isnan().all()


def test_an_iteration_waits_once(monkeypatch):
    monkeypatch.setattr(cg, "RANK", 3)  # so that there are some
    flow, theta = mixed_flow()
    system, made = flow.system(theta, "cg"), []
    normal = Linearization.normal
    monkeypatch.setattr(Linearization, "normal", lambda self, v: made.append(v) or normal(self, v))
    system.solve(1e4, 0.1)  # what the mass decomposes is there
    made.clear()
    with Waits() as waits:
        system.solve(1e6, 1e-6)
    assert len(made) > 3
    assert waits.count <= len(made) + 3  # the last look, and whether the system is finite and its core has a factor


# The choice


def test_the_fewer_of_residuals_and_unknowns_are_solved_for():
    for n, name in ((12, "kernel"), (160, "cholesky")):
        flow, theta = mixed_flow(n=n)
        assert solver_of(flow.objective, theta) is catalog.find(solvers, Solver, name)
        assert isinstance(flow.system(theta), catalog.find(solvers, Solver, name))


def test_what_does_not_fit_is_not_chosen_and_the_sentence_says_what_would():
    flow, theta = mixed_flow(n=64)
    rows, size = flow.objective.rows, flow.objective.size
    needed = {name: catalog.find(solvers, Solver, name).gib(rows, size) for name in SOLVERS}
    beside = dataclasses.replace(flow.objective, max_memory=1e-9).chunk_gib  # of as few points as can go together
    tight = dataclasses.replace(flow.objective, max_memory=1.01 * (min(needed.values()) + beside))
    least = min(needed, key=needed.__getitem__)
    assert solver_of(tight, theta) is catalog.find(solvers, Solver, least)
    for name in set(SOLVERS) - {least}:
        with pytest.raises(
            MemoryError, match=rf"^the solver {name}, for 73 unknowns.* take solver='{least}' .*, or give max_memory="
        ):
            solver_of(tight, theta, name)
    none = dataclasses.replace(flow.objective, max_memory=1e-9)
    with pytest.raises(MemoryError, match=r"train fewer unknowns .*, or give max_memory=0.01 instead of 1e-09"):
        solver_of(none, theta)
    before = dataclasses.replace(flow.objective.work)
    with pytest.raises(MemoryError):
        Flow(none, flow.lift, flow.metric).system(theta)
    assert flow.objective.work == before  # nothing was made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "choleski"}, r"no solver 'choleski'; did you mean 'cholesky'\? \(choices: cg, cholesky, kernel\)"),
        ({"tolerance": 0.0}, "tolerance is 0.0; it must be above 0 and below 1"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"acceleration": -1.0}, "acceleration is -1.0; it must be at least 0"),
    ],
    ids=str,
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RosenbrockEuler(**options)


# Training


@pytest.mark.parametrize("solver", SOLVERS)
def test_training_by_each_solver_reaches_the_same_accuracy(solver):
    """Against the true solution, of which the start misses half: 121 weights, 150 points."""
    method = pl.Method(lift="chain_rule", integrator={"name": "rosenbrock_euler", "solver": solver})
    solution = pl.pretrain(Burgers(nu=0.5 / math.pi), method=method, width=8, depth=2, points=150, max_steps=40)
    assert solution.history[0].relative_l2 > 0.1
    assert solution.relative_l2() < 4e-3
