"""Flows: the system is made once for a theta, and the velocity is the lift's."""

import torch
from small_objective import objective_of

from pinn_lora import lifts
from pinn_lora.flow import Flow
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.metrics.identity import Identity
from pinn_lora.objective import Work
from pinn_lora.solvers import Solver


def test_a_system_is_made_once_for_a_theta_and_its_solves_are_counted():
    objective = objective_of()
    flow = Flow(objective, Balanced(), Identity())
    theta = objective.blocks.read(objective.network)
    first = flow.system(theta)
    assert flow.system(theta) is first
    assert isinstance(first, Solver)
    assert objective.work == Work(jacobians=1, solves=2)
    assert flow.system(theta.clone()) is not first


def test_the_velocity_is_the_lifts_for_pairs_and_minus_the_gradient_for_the_rest():
    objective = objective_of(train_biases=True)
    flow = Flow(objective, Balanced(), Identity())
    theta = objective.blocks.read(objective.network)
    f, v = flow.velocity(theta)
    f2, g = objective.gradient(theta)
    assert f == f2
    assert len(objective.blocks.pairs) == 2
    for block in objective.blocks.blocks:
        if block in objective.blocks.pairs:
            (B, A), (gB, gA) = block.split(theta[block.slice]), block.split(g[block.slice])
            metric = Identity().weights(None, 0, B, A)
            dB, dA = Balanced().velocity(lifts.Pair(B, A, block.scale), gB, gA, metric)
            assert torch.equal(v[block.slice], torch.cat([dB.reshape(-1), dA.reshape(-1)]))
        else:
            assert torch.equal(v[block.slice], -g[block.slice])
