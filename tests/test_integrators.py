"""Integrators: measured orders, and what a linearly implicit step tends to, keeps and survives."""

import dataclasses
import functools
import math

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from torch import nn
from torch.func import functional_call, jacrev

import pinn_lora as pl
from pinn_lora import catalog, integrators, lifts
from pinn_lora.flow import Flow
from pinn_lora.integrators import Integrator, RungeKutta
from pinn_lora.integrators.rosenbrock_euler import RosenbrockEuler
from pinn_lora.lifts import Lift
from pinn_lora.lora import Blocks
from pinn_lora.metrics.identity import Identity
from pinn_lora.objective import Objective, Work
from pinn_lora.points import first_points

INTEGRATORS = catalog.names(integrators)
EXPLICIT = [name for name in INTEGRATORS if not catalog.find(integrators, Integrator, name).implicit]
TABLEAUS = [name for name in EXPLICIT if issubclass(catalog.find(integrators, Integrator, name), RungeKutta)]
IMPLICIT = [name for name in INTEGRATORS if name not in EXPLICIT]
LIFTS = catalog.names(lifts)
MASSED = [name for name in LIFTS if catalog.build(lifts, Lift, name).has_mass]


class Fit:
    """An objective without a PDE: f = |network(X) - Y|^2 over everything the network trains."""

    def __init__(self, network: nn.Module, *, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(11)
        self.network, self.blocks, self.work = network, Blocks(network), Work()
        self.X = torch.randn(40, 4, generator=generator, dtype=torch.float64)
        Y = torch.stack([torch.sin(self.X[:, 0] + self.X[:, 1]), self.X[:, 2] * self.X[:, 3]], dim=1)
        self.Y = 0.3 * (Y + noise * torch.randn(Y.shape, generator=generator, dtype=torch.float64))
        self.size = self.blocks.size

    def residuals(self, theta):
        found = functional_call(self.network, self.blocks.parameters(theta), (self.X,))
        return (found - self.Y).reshape(-1) / math.sqrt(len(self.X))

    def value(self, theta):
        return float(self.residuals(theta).detach().square().sum())

    def gradient(self, theta):
        theta = theta.detach().clone().requires_grad_()
        value = self.residuals(theta).square().sum()
        return float(value.detach()), torch.autograd.grad(value, theta)[0]

    def jacobian(self, theta):
        return self.residuals(theta).detach(), jacrev(self.residuals)(theta).detach()

    def gauss_newton(self, theta):
        self.work.jacobians += 1
        R, J = self.jacobian(theta)
        return float(R.square().sum()), 2.0 * J.T @ R, 2.0 * J.T @ J


def linear_network(*, scale=1.0, initializer="balanced", bias=False) -> nn.Module:
    torch.manual_seed(5)
    layers = (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    network = nn.Sequential(*layers).double()
    return pl.adapt(network, rank=2, targets="all", initializer=initializer, scale=scale, train_biases=bias, seed=2)


def fit_flow(lift="balanced", **options) -> tuple[Flow, torch.Tensor]:
    objective = Fit(linear_network(**options))
    return flow_of(objective, lift), objective.blocks.read(objective.network)


def flow_of(objective, lift="balanced") -> Flow:
    return Flow(objective, catalog.build(lifts, Lift, lift), Identity())


def burgers_flow(lift="balanced", *, initializer="balanced", form="ansatz", n=64) -> tuple[Flow, torch.Tensor]:
    problem = Burgers(nu=0.1, form=form)
    network = pl.MLP(problem.domain, width=6, depth=3, periodic=problem.periodic, seed=3)
    adapted = pl.adapt(network, rank=2, initializer=initializer)
    objective = Objective(problem, adapted, Blocks(adapted), first_points(problem, n, seed=1))
    return flow_of(objective, lift), objective.blocks.read(adapted)


def fixed(name: str) -> Integrator:
    """The integrator at a fixed step size."""
    options = {f.name for f in dataclasses.fields(catalog.find(integrators, Integrator, name))}
    return catalog.build(
        integrators, Integrator, {"name": name, **({"adaptive": False} if "adaptive" in options else {})}
    )


def follow(integrator: Integrator, flow: Flow, theta: torch.Tensor, *, time: float, steps: int) -> torch.Tensor:
    for _ in range(steps):
        taken = integrator.step(flow, theta, time / steps)
        assert taken.accepted
        assert taken.next_h == time / steps
        theta = taken.theta
    return theta


@functools.cache
def resolved(make, lift: str, time: float, steps: int) -> tuple[Flow, torch.Tensor, torch.Tensor]:
    """A flow, where it starts and where Runge-Kutta 4 ends with steps eight times finer: 1/4096 of its error."""
    flow, theta = make(lift)
    return flow, theta, follow(fixed("rk4"), flow, theta, time=time, steps=8 * steps)


def measured_order(name: str, make, lift: str, *, time: float, steps: int) -> float:
    """log2 of how much the error falls when the step is halved."""
    flow, theta, exact = resolved(make, lift, time, steps)
    coarse, fine = (
        float((follow(fixed(name), flow, theta, time=time, steps=n) - exact).norm()) for n in (steps, 2 * steps)
    )
    assert coarse < 0.1 * float((exact - theta).norm())  # the flow is resolved
    assert fine > 1e-13 * float(exact.norm())  # and the error is more than rounding
    return math.log2(coarse / fine)


# Orders


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("name", INTEGRATORS)
def test_the_measured_order_is_the_declared_one(name, lift):
    if catalog.find(integrators, Integrator, name).implicit and lift not in MASSED:
        pytest.skip("an implicit integrator needs a mass")
    order = measured_order(
        name, fit_flow, lift, time=0.5 if catalog.find(lifts, Lift, lift).full_units else 1.5, steps=30
    )
    assert order == pytest.approx(fixed(name).order, abs=0.15)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_the_measured_order_on_burgers_own_flow_is_the_declared_one(name):
    order = measured_order(name, burgers_flow, "balanced", time=0.02, steps=10)
    assert order == pytest.approx(fixed(name).order, abs=0.15)


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_tableau_is_consistent(name):
    """The weights add up to 1, and row i of a has i entries; so a constant field is followed exactly."""
    tableau = catalog.build(integrators, Integrator, name).tableau
    assert sum(tableau.b) == pytest.approx(1.0, abs=1e-15)
    assert len(tableau.b) == len(tableau.a) + 1
    assert [len(row) for row in tableau.a] == list(range(1, len(tableau.a) + 1))


@pytest.mark.parametrize("name", EXPLICIT)
def test_an_explicit_step_costs_one_gradient_a_stage_and_gives_the_loss_where_it_began(name):
    flow, theta = burgers_flow()
    before = theta.clone()
    integrator = fixed(name)
    taken = integrator.step(flow, theta, 1e-4)
    stages = len(integrator.tableau.b) if name in TABLEAUS else integrator.stages
    assert flow.objective.work == Work(gradients=stages)
    assert taken.value == pytest.approx(flow.value(theta), rel=1e-13)
    assert taken.accepted
    assert not taken.finished
    assert torch.equal(theta, before)
    assert flow.value(taken.theta) < taken.value


# Euler


def test_euler_on_the_chain_rule_is_torch_sgd():
    for make in (lambda: linear_network(initializer="zero_b", bias=True), lambda: linear_network(scale=0.5)):
        flow = flow_of(Fit(make()), "chain_rule")
        objective, theta = flow.objective, flow.objective.blocks.read(flow.objective.network)
        twin = make()
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
        for _ in range(20):
            theta = fixed("euler").step(flow, theta, 0.05).theta
            optimizer.zero_grad()
            ((twin(objective.X) - objective.Y).square().sum() / len(objective.X)).backward()
            optimizer.step()
            assert (theta - Blocks(twin).read(twin)).norm() < 1e-12 * theta.norm()


def test_euler_on_the_chain_rule_is_torch_sgd_on_burgers():
    flow, theta = burgers_flow("chain_rule", initializer="zero_b", form="soft")
    objective = flow.objective
    parameter = nn.Parameter(theta.clone())
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    start = theta
    for _ in range(10):
        theta = fixed("euler").step(flow, theta, 1e-3).theta
        parameter.grad = objective.gradient(parameter.detach())[1]
        optimizer.step()
        assert (theta - parameter.detach()).norm() <= 1e-12 * theta.norm()
    assert (theta - start).norm() > 1e-3


def factors(flow: Flow, theta: torch.Tensor):
    return [block.split(theta[block.slice]) for block in flow.objective.blocks.pairs]


def imbalances(flow: Flow, theta: torch.Tensor):
    return [B.T @ B - A @ A.T for B, A in factors(flow, theta)]


def assert_drift_is_of_second_order_in_the_step(flow, theta, taken):
    """B^T B - A A^T changes by exactly dB^T dB - dA dA^T: the first order, B^T dB - dA A^T and its transpose, is zero."""
    steps = factors(flow, taken.theta - theta)
    for before, after, (dB, dA) in zip(imbalances(flow, theta), imbalances(flow, taken.theta), steps, strict=True):
        expected = dB.T @ dB - dA @ dA.T
        assert expected.norm() > 1e-10
        assert (after - before - expected).norm() < 1e-9 * expected.norm() + 1e-14


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("initializer", ["balanced", "zero_b"])
def test_eulers_drift_of_balance_is_h_squared(scale, initializer):
    flow, theta = fit_flow(initializer=initializer, scale=scale)
    for _ in range(3):
        taken = fixed("euler").step(flow, theta, 0.05)
        assert_drift_is_of_second_order_in_the_step(flow, theta, taken)
        theta = taken.theta


# rosenbrock_euler


def implicit_step(flow, theta, h, **options):
    return RosenbrockEuler(**options).step(flow, theta, h)


@pytest.mark.parametrize("lift", MASSED)
@pytest.mark.parametrize("make", [fit_flow, burgers_flow])
def test_a_small_implicit_step_is_eulers(make, lift):
    """The difference is of order h^2: half the step leaves a quarter of it."""
    flow, theta = make(lift)
    differences = []
    for h in (1e-6, 0.5e-6):
        explicit = fixed("euler").step(flow, theta, h).theta
        implicit = implicit_step(flow, theta, h, adaptive=False).theta
        differences.append(float((implicit - explicit).norm()))
        assert differences[-1] < 1e-2 * float((explicit - theta).norm())
    assert differences[0] / differences[1] == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("lift", MASSED)
def test_a_large_implicit_step_is_gauss_newton(lift):
    """J d is the least-squares one; where the mass keeps the gauge, d itself is the one of minimum norm."""
    flow, theta = fit_flow(lift)
    R, J = flow.objective.jacobian(theta)
    expected = -torch.linalg.pinv(J, rtol=1e-10) @ R
    distances = []
    for h in (1e7, 1e9):
        d = implicit_step(flow, theta, h, adaptive=False).theta - theta
        distances.append(float((J @ (d - expected)).norm() / (J @ expected).norm()))
        if all(mass.keeps_gauge for _, mass in flow.system(theta).masses):
            assert (d - expected).norm() < 1e-4 * expected.norm()
    assert distances[0] < 1e-4
    assert distances[1] < 0.05 * distances[0] + 1e-9


@pytest.mark.parametrize("h", [1e-4, 1e-1, 1e2, 1e5])
@pytest.mark.parametrize("bias", [False, True])
def test_mass_one_is_levenberg_marquardt(h, bias):
    """(J^T J + I / (2 h)) d = -J^T R by QR of [J; (2 h)^-1/2], on factors and dense blocks."""
    flow, theta = fit_flow("chain_rule", bias=bias)
    R, J = flow.objective.jacobian(theta)
    eye = torch.eye(len(theta), dtype=torch.float64)
    stacked, target = torch.cat([J, eye / math.sqrt(2 * h)]), torch.cat([-R, torch.zeros(len(theta), dtype=R.dtype)])
    expected = torch.linalg.lstsq(stacked, target[:, None]).solution[:, 0]
    d = implicit_step(flow, theta, h, adaptive=False).theta - theta
    assert (d - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.parametrize("h", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("lift", MASSED)
@pytest.mark.parametrize("make", [fit_flow, burgers_flow])
def test_a_step_solves_its_system_and_lifting_the_gauge_changes_nothing(make, lift, h):
    """Against QR of [sqrt(2) J; (M / h)^1/2] without gauge terms, to what a Cholesky factor of H can give."""
    flow, theta = make(lift)
    system = flow.system(theta)
    R, J = flow.objective.jacobian(theta)
    M = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for place, mass in system.masses:
        M[place, place] = mass.matrix
    root = torch.linalg.cholesky(M / h).T
    target = torch.cat([-math.sqrt(2) * R, torch.zeros(len(theta), dtype=torch.float64)])
    expected = torch.linalg.lstsq(torch.cat([math.sqrt(2) * J, root]), target[:, None]).solution[:, 0]
    d = system.solve(h)
    assert (d - expected).norm() < 1e-7 * expected.norm()
    left_out = dataclasses.replace(system, gauges=()).solve(h)
    assert (left_out - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("h", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("lift", MASSED)
def test_the_orthogonal_fallback_gives_the_same_step(lift, h):
    flow, theta = fit_flow(lift, bias=True)
    system = flow.system(theta)
    d, fallback = system.solve(h), system._solve_least_squares(h)
    assert (d - fallback).norm() < 1e-8 * d.norm()


def test_the_fallback_is_taken_where_cholesky_fails(monkeypatch):
    flow, theta = fit_flow()
    system = flow.system(theta)
    expected, real = system.solve(1.0), torch.linalg.cholesky_ex

    def failing(matrix):
        factor, info = real(matrix)
        return factor * torch.nan, torch.ones_like(info)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    assert (system.solve(1.0) - expected).norm() < 1e-8 * expected.norm()


def test_a_system_that_is_not_finite_gives_a_step_that_is_not_finite():
    """So that a run that diverges is recorded as such."""
    flow, theta = fit_flow()
    for bad in (torch.nan, torch.inf):
        system = flow.system(theta)
        broken = dataclasses.replace(
            system,
            hessian=system.hessian * bad,
            gradient=system.gradient * bad,
            jacobian=lambda bad=bad: tuple(v * bad for v in flow.objective.jacobian(theta)),
        )
        assert not broken.solve(1.0).isfinite().all()


@pytest.mark.parametrize("h", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("lift", ["balanced", "chain_rule"])
@pytest.mark.parametrize("initializer", ["balanced", "zero_b"])
def test_an_implicit_steps_drift_of_balance_is_of_second_order(initializer, lift, h):
    """For the balanced mass, and for M = I too: d lies in the balanced gauge."""
    flow, theta = fit_flow(lift, initializer=initializer)
    theta = fixed("euler").step(flow, theta, 0.05).theta  # away from B = 0
    assert_drift_is_of_second_order_in_the_step(flow, theta, implicit_step(flow, theta, h, adaptive=False))


@pytest.mark.parametrize("h", [1e-6, 1.0, 1e8])
@pytest.mark.parametrize("lift", MASSED)
@pytest.mark.parametrize("initializer", ["balanced", "zero_b"])
def test_adaptive_steps_survive_every_first_step_size(initializer, lift, h):
    flow, theta = burgers_flow(lift, initializer=initializer)
    first = flow.value(theta)
    values, integrator = [first], RosenbrockEuler()
    for _ in range(100):
        taken = integrator.step(flow, theta, h)
        assert taken.theta.isfinite().all()
        assert taken.value == pytest.approx(values[-1], rel=1e-10)
        theta, h = taken.theta, taken.next_h
        values.append(flow.value(theta))
        assert values[-1] <= values[-2]
    assert values[-1] < 0.5 * first


@pytest.mark.parametrize("lift", MASSED)
@pytest.mark.parametrize("initializer", ["balanced", "zero_b"])
def test_fixed_steps_of_1e8_stay_finite(initializer, lift):
    flow, theta = burgers_flow(lift, initializer=initializer)
    for _ in range(10):
        theta = implicit_step(flow, theta, 1e8, adaptive=False).theta
        assert theta.isfinite().all()


def test_control_widens_good_steps_and_shrinks_bad_ones():
    flow, theta = fit_flow()
    rule = RosenbrockEuler(grow=3.0, shrink=2.0)
    small = rule.step(flow, theta, 1e-3)  # the model is good for a small step
    assert small.accepted
    assert small.next_h == pytest.approx(3e-3)
    refused = dataclasses.replace(rule, accept=10.0).step(flow, theta, 1e-3)  # nothing falls ten times as predicted
    assert not refused.accepted
    assert refused.theta is theta
    assert refused.next_h == pytest.approx(5e-4)
    assert not refused.finished
    fixed_size = dataclasses.replace(rule, adaptive=False).step(flow, theta, 1e-3)
    assert fixed_size.next_h == 1e-3
    assert torch.equal(fixed_size.theta, small.theta)


def test_a_rejected_step_costs_one_residual_evaluation_and_one_solve():
    flow, theta = burgers_flow()
    rule = RosenbrockEuler(accept=10.0)
    rejected = rule.step(flow, theta, 1.0)
    assert flow.objective.work == Work(residuals=1, jacobians=1, solves=1)
    rule.step(flow, rejected.theta, rejected.next_h)
    assert flow.objective.work == Work(residuals=2, jacobians=1, solves=2)
    accepted = RosenbrockEuler().step(flow, theta, 1e-3)
    RosenbrockEuler().step(flow, accepted.theta, 1e-3)
    assert flow.objective.work.jacobians == 2


def test_a_trial_that_is_not_finite_is_rejected():
    flow, theta = fit_flow()
    flow.value = lambda _: math.nan
    taken = RosenbrockEuler().step(flow, theta, 1.0)
    assert not taken.accepted
    assert taken.theta is theta
    assert taken.next_h < 1.0


@pytest.mark.parametrize("h", [1e-6, 1e8])
def test_at_the_floor_of_rounding_a_run_finishes(h):
    """Steps that gain nothing are rejected, and their size falls until none moves theta: that is said, not a crash."""
    flow, theta = fit_flow()
    for _ in range(3000):
        taken = RosenbrockEuler().step(flow, theta, h)
        theta, h = taken.theta, taken.next_h
        if taken.finished:
            break
    assert taken.finished
    _, g = flow.objective.gradient(theta)
    assert g.norm() < 1e-6


def test_mixed_precision_takes_float32_steps_from_float64_systems():
    flow, _theta = burgers_flow()
    network = flow.objective.network.float()
    objective = Objective(flow.objective.problem, network, Blocks(network), flow.objective.points)
    single = flow_of(objective)
    taken = implicit_step(single, objective.blocks.read(network), 1.0)
    system = single.system(objective.blocks.read(network))
    assert system.hessian.dtype == torch.float64
    assert taken.theta.dtype == torch.float32
    assert taken.accepted


def test_masses_of_the_flow_are_the_lifts():
    flow, theta = fit_flow("balanced", bias=True)
    system = flow.system(theta)
    assert [mass is None for _, mass in system.masses] == [False, True, False, True]
    assert [place for place, _ in system.masses] == [block.slice for block in flow.objective.blocks.blocks]
    assert len(system.gauges) == 2
    f, v = flow.velocity(theta)
    g = flow.objective.gradient(theta)[1]
    assert f == pytest.approx(flow.value(theta))
    for place, mass in system.masses:
        M = torch.eye(place.stop - place.start, dtype=torch.float64) if mass is None else mass.matrix
        torch.testing.assert_close(M @ v[place], -g[place], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_integrators_say_so(name):
    assert catalog.build(integrators, Integrator, name).implicit


@pytest.mark.parametrize(
    "options", [{"grow": 0.5}, {"shrink": 1.0}, {"shrink": 0.0}, {"accept": -1.0}, {"grow": math.nan}], ids=str
)
def test_options_that_cannot_control_a_step_are_refused(options):
    (key,) = options
    with pytest.raises(ValueError, match=f"rosenbrock_euler: {key} is {options[key]}"):
        RosenbrockEuler(**options)
