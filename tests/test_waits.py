"""How often a step waits for its device: for what it decides by, however many layers have factors."""

import pytest
import torch
from small_flows import LIFTS, MASSED, burgers_flow
from waits import Waits

from pinn_lora import catalog, integrators, solvers
from pinn_lora.integrators import Integrator
from pinn_lora.integrators.rosenbrock_euler import RosenbrockEuler

DIRECT = sorted(set(catalog.names(solvers)) - {"cg"})  # an iteration asks in every round
EXPLICIT = [name for name in catalog.names(integrators) if not catalog.find(integrators, Integrator, name).implicit]
TARGETS = ["layers.1"], "hidden"  # one pair, and two


def test_what_asks_is_counted():
    x = torch.ones(2)
    for asks in (lambda: float(x[0]), lambda: bool(x.any()), lambda: torch.equal(x, x)):
        with Waits() as waits:
            asks()
        assert waits.count == 1


@pytest.mark.parametrize("initializer", ["balanced", "zero_b"])
@pytest.mark.parametrize("lift", LIFTS)
def test_a_velocity_waits_for_the_loss_alone(lift, initializer):
    for targets in TARGETS:
        flow, theta = burgers_flow(lift, initializer=initializer, targets=targets)
        with Waits() as waits:
            flow.velocity(theta)
        assert waits.count == 1, targets


@pytest.mark.parametrize("name", EXPLICIT)
def test_an_explicit_step_waits_for_its_losses_and_where_it_is_adaptive_for_the_error(name):
    integrator = catalog.find(integrators, Integrator, name)()
    for targets in TARGETS:
        flow, theta = burgers_flow(targets=targets)
        with Waits() as waits:
            integrator.step(flow, theta, 1e-3)
        assert waits.count == flow.objective.work.gradients + integrator.adaptive, targets


@pytest.mark.parametrize("solver", DIRECT)
@pytest.mark.parametrize("lift", MASSED)
def test_an_implicit_step_waits_four_times(lift, solver):
    """For the factor, |R|^2, the predicted decrease, zero where theta stays, and f at the trial; for no pair."""
    for targets in TARGETS:
        flow, theta = burgers_flow(lift, targets=targets)
        with Waits() as waits:
            RosenbrockEuler(solver=solver).step(flow, theta, 1.0)
        assert waits.count == 4, targets
