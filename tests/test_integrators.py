"""Integrators: measured orders, their cost, and what they keep."""

import dataclasses
import functools
import math

import pytest
import torch
from small_flows import (
    LIFTS,
    MASSED,
    Fit,
    assert_drift_is_of_second_order_in_the_step,
    burgers_flow,
    fit_flow,
    flow_of,
    linear_network,
)
from torch import nn

from pinn_lora import catalog, integrators, lifts
from pinn_lora.flow import Flow
from pinn_lora.integrators import Integrator, RungeKutta
from pinn_lora.lifts import Lift
from pinn_lora.lora import Blocks
from pinn_lora.objective import Work

INTEGRATORS = catalog.names(integrators)
EXPLICIT = [name for name in INTEGRATORS if not catalog.find(integrators, Integrator, name).implicit]
TABLEAUS = [name for name in EXPLICIT if issubclass(catalog.find(integrators, Integrator, name), RungeKutta)]
IMPLICIT = [name for name in INTEGRATORS if name not in EXPLICIT]


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
def test_an_explicit_step_takes_the_gradients_it_says_and_gives_the_loss_where_it_began(name):
    flow, theta = burgers_flow()
    before = theta.clone()
    integrator = fixed(name)
    taken = integrator.step(flow, theta, 1e-4)
    assert flow.objective.work == Work(gradients=integrator.gradients)
    assert integrator.cost.startswith(f"{integrator.gradients} gradient")
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


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("initializer", ["balanced", "zero_b"])
def test_eulers_drift_of_balance_is_h_squared(scale, initializer):
    flow, theta = fit_flow(initializer=initializer, scale=scale)
    for _ in range(3):
        taken = fixed("euler").step(flow, theta, 0.05)
        assert_drift_is_of_second_order_in_the_step(flow, theta, taken)
        theta = taken.theta


@pytest.mark.parametrize("name", INTEGRATORS)
def test_what_an_integrator_calls_its_control_does_nothing_at_a_fixed_step_size(name):
    """Bit by bit: an option that did anything would be a second thing in which two methods differ."""
    integrator = fixed(name)
    flow, theta = fit_flow("chain_rule")
    step = integrator.step(flow, theta, 0.1)
    for option in integrator.control:
        other = dataclasses.replace(integrator, **{option: 1.5 * getattr(integrator, option)})
        assert torch.equal(other.step(flow, theta, 0.1).theta, step.theta)
        assert other.step(flow, theta, 0.1).accepted
    assert bool(integrator.control) == ("adaptive" in {field.name for field in dataclasses.fields(integrator)})
    assert not integrator.bends


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_integrators_say_so(name):
    assert catalog.build(integrators, Integrator, name).implicit
