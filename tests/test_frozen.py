"""What is frozen costs nothing: no gradient of a frozen weight is formed, no adjoint goes below what is trained, and no
derivative travels that its term does not use."""

from dataclasses import replace

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from torch.utils._python_dispatch import TorchDispatchMode

import pinn_lora as pl
from pinn_lora import networks
from pinn_lora.catalog import find, names
from pinn_lora.lora import Blocks
from pinn_lora.networks import Network
from pinn_lora.passes import LayerPlan, Passes
from pinn_lora.points import first_points
from pinn_lora.program import forward_jets

BURGERS = Burgers(nu=0.05, form="soft")
WIDTH = 90
# by term: u, u_x, u_xx and u_t, or the value alone
USED = {"residual": {(), (0,), (0, 0), (1,)}, "initial": {()}, "dirichlet": {()}}


def objective_of(name: str, *, adapted: bool, n: int = 6, engine: str | None = None, **options) -> pl.Objective:
    network = find(networks, Network, name)(BURGERS.domain, seed=2, **{"width": 5, "depth": 4, **options})
    trained = pl.adapt(network, rank=2, initializer="balanced", train_biases=True) if adapted else network
    points = {term: tuple(x[:n] for x in sets) for term, sets in first_points(BURGERS, 16, seed=3).items()}
    return pl.Objective(BURGERS, trained, Blocks(trained), points, engine=engine)


class LargestMade(TorchDispatchMode):
    """The number of entries of the largest new tensor; a view, or what is written in place, is none."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        results = found if isinstance(found, (tuple, list)) else (found,)
        for tensor, result in zip(results, func._schema.returns, strict=False):
            if isinstance(tensor, torch.Tensor) and result.alias_info is None:
                self.numel = max(self.numel, tensor.numel())
        return found


@pytest.mark.parametrize("name", names(networks))
def test_no_gradient_of_a_frozen_weight_is_formed(name):
    """At so few points that the widest jets are smaller than a weight, nothing as large as one is made, in a gradient or in a
    product with J^T; the weights themselves are made once, when theta is bound."""
    found = objective_of(name, adapted=True, width=WIDTH)
    theta = found.blocks.read(found.network)
    bound, g = found.running.bind(theta), torch.zeros_like(theta)
    tangent = found.linearize(theta, room=1.0)
    with LargestMade() as largest:
        for chunk, scale in found.chunks:
            found.running.gradient(bound, chunk, scale, g)
        tangent.adjoint(tangent.residuals)
    assert 0 < largest.numel < WIDTH**2
    assert g.norm() > 0


def adjoint_layers(passes: Passes, found: pl.Objective, features: torch.Tensor) -> tuple[set[int], set[int]]:
    """The layers to which an adjoint comes, and those whose output depends on what is trained, as autograd sees it."""
    bound = found.running.bind(found.blocks.read(found.network))
    outputs, record = passes.forward(bound, features)
    came = set(passes.adjoints(bound, record, torch.ones_like(outputs)).layers)

    layers = [
        layer._replace(weight=layer.weight.detach().clone().requires_grad_(i in passes.trained))
        for i, layer in enumerate(bound.layers)
    ]
    alpha = None if bound.alpha is None else bound.alpha.detach().clone().requires_grad_(passes.alpha is not None)
    watched = bound._replace(layers=layers, alpha=alpha)
    values = forward_jets(passes.steps, passes.frame(watched, pure=True), features).values[1:]
    steps = zip(passes.steps, values, strict=True)
    return came, {step.layer for step, value in steps if step.layer is not None and value.requires_grad}


@pytest.mark.parametrize("name", names(networks))
def test_the_adjoint_goes_no_further_than_what_is_trained(name):
    """For each layer as the only trained one, and for alpha alone."""
    found = objective_of(name, adapted=False)
    chunk, _ = found.chunks[0]
    whole, depth = chunk.passes, len(chunk.passes.plan)
    for only in range(depth):
        plan = tuple(layer if i == only else LayerPlan() for i, layer in enumerate(whole.plan))
        came, expected = adjoint_layers(replace(whole, plan=plan, alpha=None), found, chunk.features)
        assert came == expected
        assert only in came
    assert came == {depth - 1}  # below the outputs' layer nothing is asked for
    if whole.alpha is not None:
        came, expected = adjoint_layers(replace(whole, plan=(LayerPlan(),) * depth), found, chunk.features)
        assert came == expected
        assert 0 < len(came) < depth


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_no_derivative_travels_that_a_term_does_not_use(engine):
    found = objective_of("mlp", adapted=True, engine=engine)
    assert {chunk.term.name for chunk, _ in found.chunks} == set(USED)
    for chunk, _ in found.chunks:
        used = USED[chunk.term.name]
        assert len(chunk.term.indices) == len(used)
        assert set(chunk.term.indices) == used
        if engine == "jets":
            assert chunk.features.shape[0] == len(chunk.passes.indices) == len(used)
