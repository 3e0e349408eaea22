"""What a step computes lies where theta lies.

With a default device whose tensors hold no numbers, every tensor that is made without saying where cannot be computed with, so
that a step which ends has made all of its own beside theta. That is what a GPU asks of it, and it is found without one.
"""

import pytest
import torch
from small_problems import PROBLEMS, mlp, objective, somewhere, trained

import pinn_lora as pl
from pinn_lora import problems, solvers
from pinn_lora.batches import Batch
from pinn_lora.catalog import find, names
from pinn_lora.method import Method
from pinn_lora.presets import PRESETS
from pinn_lora.problem import Problem
from pinn_lora.training import network_for

SOFT = PROBLEMS["soft"]


def three_steps(method, network, step_size: float) -> None:
    found = objective(SOFT, network, n=30)
    theta = found.blocks.read(network)
    with torch.device("meta"):
        run = method.start(found.blocks, theta, step_size=step_size, max_steps=3)
        for _ in range(3):
            theta = run.step(found, theta).theta
    assert theta.device.type == "cpu" and theta.isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_steps_where_theta_is(name):
    preset, network = PRESETS[name], mlp(SOFT)
    if preset.trains == "factors":
        start = preset.initializer if preset.method.rank_factor > 1 else "balanced"
        network = pl.adapt(network, rank=2 * preset.method.rank_factor, initializer=start)
    three_steps(preset.method, network, preset.step_size)


@pytest.mark.parametrize("solver", names(solvers))
@pytest.mark.parametrize("lift", ["balanced", "block_diagonal", "refactored", "weighted"])
def test_every_solver_and_mass_does(solver, lift):
    method = Method("identity", lift, {"name": "rosenbrock_euler", "solver": solver})
    three_steps(method, trained(SOFT, "biases_output"), 1.0)


@pytest.mark.parametrize("name", names(problems))
def test_every_problems_loss_and_jacobian_do(name):
    problem = find(problems, Problem, name)()
    network = network_for(problem, width=6, depth=2)
    found = objective(problem, network, n=12)
    theta = somewhere(found.blocks, network)
    with torch.device("meta"):
        f, g = found.gradient(theta)
        R, J = found.jacobian(theta)
        assert found.value(theta) == pytest.approx(f)
    assert g.isfinite().all() and R.isfinite().all() and J.isfinite().all()


def test_a_batch_does():
    members = [objective(SOFT, trained(SOFT, "biases_output", seed=k), n=12) for k in range(2)]
    thetas = torch.stack([somewhere(member.blocks, member.network) for member in members])
    with torch.device("meta"):
        batch = Batch(members)
        found = [*batch.gradient(thetas), *batch.normal(thetas), *batch.jacobian(thetas)]
    assert all(x.isfinite().all() for x in found)
