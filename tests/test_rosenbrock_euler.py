"""The linearly implicit step: what it tends to, keeps and survives."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_flows import MASSED, assert_drift_is_of_second_order_in_the_step, burgers_flow, fit_flow, flow_of

from pinn_lora import lower
from pinn_lora.integrators.euler import Euler
from pinn_lora.integrators.rosenbrock_euler import RosenbrockEuler
from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective, Work
from pinn_lora.solvers import cholesky


def implicit_step(flow, theta, h, **options):
    return RosenbrockEuler(**options).step(flow, theta, h)


@pytest.mark.parametrize("lift", MASSED)
@pytest.mark.parametrize("make", [fit_flow, burgers_flow])
def test_a_small_implicit_step_is_eulers(make, lift):
    """The difference is of order h^2: half the step leaves a quarter of it."""
    flow, theta = make(lift)
    differences = []
    for h in (1e-6, 0.5e-6):
        explicit = Euler().step(flow, theta, h).theta
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
    d, fallback = system.solve(h), system._solve_least_squares(h, system.residuals)
    assert (d - fallback).norm() < 1e-8 * d.norm()


def test_the_fallback_is_taken_where_cholesky_fails(monkeypatch):
    """No flow was asked before: one that was answers from the factor it kept."""
    flow, theta = fit_flow()
    expected, fresh, rows = flow.system(theta).solve(1.0), fit_flow()[0].system(theta), []
    monkeypatch.setattr(lower, "factor", lambda matrix: None)
    counted = dataclasses.replace(fresh, jacobian=lambda: rows.append(1) or fresh.jacobian())
    assert (counted.solve(1.0) - expected).norm() < 1e-8 * expected.norm()
    assert rows


def test_a_system_that_is_not_finite_gives_a_step_that_is_not_finite():
    """So that a run that diverges is recorded as such."""
    flow, theta = fit_flow()
    for bad in (torch.nan, torch.inf):
        system = flow.system(theta)
        broken = dataclasses.replace(
            system,
            hessian=system.hessian * bad,
            gradient=system.gradient * bad,
            jacobian=lambda bad=bad: (rows * bad for rows in flow.objective.jacobian_rows(theta)),
        )
        assert not broken.solve(1.0).isfinite().all()


@pytest.mark.parametrize("h", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("lift", ["balanced", "chain_rule"])
@pytest.mark.parametrize("initializer", ["balanced", "zero_b"])
def test_an_implicit_steps_drift_of_balance_is_of_second_order(initializer, lift, h):
    """For the balanced mass, and for M = I too: d lies in the balanced gauge."""
    flow, theta = fit_flow(lift, initializer=initializer)
    theta = Euler().step(flow, theta, 0.05).theta  # away from B = 0
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
    rule = RosenbrockEuler(grow=3.0, shrink=2.0, acceleration=0.0)
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


@pytest.mark.parametrize(
    ("ratio", "accepted", "factor"),
    [
        (-0.5, False, 0.25),
        (0.05, False, 0.25),
        (0.15, True, 0.25),
        (0.3, True, 1.0),
        (0.7, True, 1.0),
        (0.8, True, 5.0),
    ],
)
def test_the_step_size_follows_the_ratio_of_actual_to_predicted_decrease(ratio, accepted, factor):
    """Refused below `accept`; taken, but narrowed, below 1/4; kept up to 3/4; widened above."""
    d = torch.ones(1, dtype=torch.float64)
    system = SimpleNamespace(value=10.0, solve=lambda h, tolerance: d, predicted=lambda d: 1.0)
    flow: Any = SimpleNamespace(system=lambda theta, solver: system, value=lambda theta: 10.0 - ratio)
    rule = RosenbrockEuler(accept=0.1, grow=5.0, shrink=4.0, acceleration=0.0)
    taken = rule.step(flow, torch.zeros_like(d), 2.0)
    assert taken.accepted == accepted
    assert taken.next_h == 2.0 * factor
    assert taken.theta.item() == (1.0 if accepted else 0.0)


def test_a_rejected_step_costs_one_residual_evaluation_and_one_solve():
    flow, theta = burgers_flow()
    rule = RosenbrockEuler(accept=10.0, acceleration=0.0)
    rejected = rule.step(flow, theta, 1.0)
    assert flow.objective.work == Work(residuals=1, jacobians=1, solves=1)
    rule.step(flow, rejected.theta, rejected.next_h)
    assert flow.objective.work == Work(residuals=2, jacobians=1, solves=2)
    accepted = RosenbrockEuler().step(flow, theta, 1e-3)
    RosenbrockEuler().step(flow, accepted.theta, 1e-3)
    assert flow.objective.work.jacobians == 2


@pytest.mark.parametrize("kept", [True, False], ids=["J kept", "J not kept"])
def test_a_rejected_accelerated_step_costs_two_residual_evaluations_and_a_product_more(kept, monkeypatch):
    monkeypatch.setattr(cholesky, "KEPT", 1.0 if kept else 0.0)
    flow, theta = burgers_flow()
    rule = RosenbrockEuler(accept=10.0)
    rejected = rule.step(flow, theta, 1.0)
    assert flow.objective.work == Work(residuals=3, gradients=0 if kept else 1, jacobians=1, solves=1)
    rule.step(flow, rejected.theta, rejected.next_h)
    assert flow.objective.work == Work(residuals=6, gradients=0 if kept else 2, jacobians=1, solves=2)


@pytest.mark.parametrize("solver", ["cholesky", "kernel", "cg"])
@pytest.mark.parametrize("lift", ["balanced", "chain_rule"])
def test_acceleration_is_half_the_systems_solution_for_the_second_derivative(lift, solver):
    """R'' by differences of J d at a thousandth of the probe, which itself errs by PROBE^2 / 12 of the fourth derivative."""
    flow, theta = burgers_flow(lift)
    h = 1e-3
    objective = dataclasses.replace(flow.objective, engine="functional")
    _, J = objective.jacobian(theta)
    plain = RosenbrockEuler(acceleration=0.0, tolerance=1e-13, solver=solver).step(flow, theta, h)
    d = plain.theta - theta
    values = [objective.jacobian(theta + t * d)[1] @ d for t in (1e-4, -1e-4)]  # J d, differenced once more
    second = (values[0] - values[1]) / 2e-4
    M = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for pair in flow.masses(theta).pairs:
        M[pair.place, pair.place] = pair.matrix().matrix
    a = -torch.linalg.solve(M / h + 2.0 * J.T @ J, 2.0 * J.T @ second)
    bent = RosenbrockEuler(acceleration=1e9, tolerance=1e-13, solver=solver).step(flow, theta, h).theta - theta
    assert a.norm() > 1e-6 * d.norm()
    assert (bent - d - 0.5 * a).norm() < 1e-2 * a.norm()
    ratio = float(2.0 * (bent - plain.theta + theta).norm() * 2.0 / d.norm())  # 2 |a| / |d|
    for limit, bends in ((0.99 * ratio, False), (1.01 * ratio, True)):
        taken = RosenbrockEuler(acceleration=limit, tolerance=1e-13, solver=solver).step(flow, theta, h).theta
        torch.testing.assert_close(taken, theta + bent if bends else plain.theta, rtol=1e-9, atol=1e-12)
    short = RosenbrockEuler(acceleration=1e-9, tolerance=1e-13, solver=solver).step(flow, theta, h).theta
    torch.testing.assert_close(short, plain.theta, rtol=1e-9, atol=1e-12)


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


@pytest.mark.parametrize("predicted", [-1.0, math.nan])
def test_a_step_that_is_not_predicted_to_lower_the_loss_is_refused_untried(predicted, monkeypatch):
    """Rounding made it: accepted, it might raise the loss and would widen h."""
    flow, theta = burgers_flow()
    system = flow.system(theta)
    monkeypatch.setattr(type(system), "predicted", lambda self, d: predicted)
    before = flow.objective.work.residuals
    taken = RosenbrockEuler().step(flow, theta, 8.0)
    assert taken.theta is theta
    assert (taken.accepted, taken.finished, taken.next_h) == (False, False, 4.0)
    assert flow.objective.work.residuals == before


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


@pytest.mark.parametrize(
    "options", [{"grow": 0.5}, {"shrink": 1.0}, {"shrink": 0.0}, {"accept": -1.0}, {"grow": math.nan}], ids=str
)
def test_options_that_cannot_control_a_step_are_refused(options):
    (key,) = options
    with pytest.raises(ValueError, match=f"rosenbrock_euler: {key} is {options[key]}"):
        RosenbrockEuler(**options)
