"""A small Burgers objective on adapted layers, for the tests of optimizers."""

import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora.flow import WeightGradient
from pinn_lora.lora import Blocks
from pinn_lora.optimizers import Optimizer
from pinn_lora.points import first_points


def objective_of(*, form="ansatz", adapted=True, seed=1, rank=2, **options) -> pl.Objective:
    problem = Burgers(nu=0.1, form=form)
    network = pl.MLP(problem.domain, width=5, depth=3, periodic=problem.periodic, seed=3)
    network = pl.adapt(network, rank=rank, **{"initializer": "balanced", **options}) if adapted else network
    return pl.Objective(problem, network, Blocks(network), first_points(problem, 64, seed=seed))


def objective_for(rule: Optimizer, **options) -> pl.Objective:
    """The same from a start that the optimizer takes."""
    own = {} if rule.initializer == "zero_b" else {"initializer": rule.initializer}
    return objective_of(rank=2 * rule.rank_factor, **own, **options)


def started(rule: Optimizer, objective, *, step_size, max_steps):
    theta = objective.blocks.read(objective.network)
    return rule.start(objective.blocks, theta, step_size=step_size, max_steps=max_steps), theta


def dense(objective, theta):
    """Every pair's (B, A, G, s), G the loss's gradient in the layer's own weight."""
    G = WeightGradient(objective)(theta)[2]
    return [(*block.split(theta[block.slice]), G[block.name], block.scale) for block in objective.blocks.pairs]


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance=1e-10):
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()
