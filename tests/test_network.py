"""The multilayer perceptron: its jets against autograd, its adjoint, its features, and what its seed decides."""

import math

import numpy as np
import pytest
import torch

import pinn_lora as pl
from pinn_lora.activations import ACTIVATIONS
from pinn_lora.jets import Jet, closure
from pinn_lora.network import adjoint_jets, forward_jets

BOX = pl.Domain(x=(-1.0, 3.0), t=(0.0, 0.5))
SETS = {
    "value": closure([]),
    "first": closure([(0,), (1,)]),
    "all_2": closure([(0, 0), (0, 1), (1, 1)]),
    "xxx_t": closure([(0, 0, 0), (1,)]),
    "xxtt": closure([(0, 0, 1, 1)]),
}


def mlp(**options) -> pl.MLP:
    network = pl.MLP(BOX, **{"width": 7, "depth": 3, "fields": 2, "seed": 3, **options})
    with torch.no_grad():  # biases that are not zero
        for i, layer in enumerate(network.layers):
            layer.bias.copy_(torch.linspace(-0.5, 0.7, len(layer.bias), dtype=layer.bias.dtype) + 0.1 * i)
    return network


def features_of(network: pl.MLP, points: torch.Tensor, indices) -> torch.Tensor:
    return network.feature_jets([Jet.coordinate(points, i, indices) for i in range(points.shape[1])])


def output_jets(network: pl.MLP, points: torch.Tensor, indices):
    layers = network.effective_layers({})
    with torch.no_grad():
        return forward_jets(layers, features_of(network, points, indices), indices, network.activation)


def by_autograd(network, points: torch.Tensor, indices) -> torch.Tensor:
    rows = []
    for index in indices:
        x = points.clone().requires_grad_()
        columns = []
        for value in network(x).unbind(-1):
            for number in index:
                (found,) = torch.autograd.grad(value.sum(), x, create_graph=True)
                value = found[:, number]
            columns.append(value.detach())
        rows.append(torch.stack(columns, dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("indices", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("periodic", [(), ("x",), ("x", "t")], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jets_are_the_derivatives_of_forward(activation, periodic, indices):
    network, points = mlp(activation=activation, periodic=periodic), BOX.sample(20, seed=1)
    found, inputs, tapes = output_jets(network, points, indices)
    expected = by_autograd(network, points, indices)
    assert found.shape == (len(indices), 20, 2)
    assert len(inputs) == 4
    assert len(tapes) == 3
    # rounding of products of a few numbers of the size of the derivative itself
    assert ((found - expected).abs().amax((1, 2)) <= 1e-11 * expected.abs().amax((1, 2)).clamp_min(1)).all()


@pytest.mark.parametrize("indices", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("lowest", [0, 1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_adjoint_is_the_transpose_of_the_forward_jets(activation, lowest, indices):
    """<seed, output jets> has the gradient D^T H in a layer's weight, and D of the value in its bias."""
    network, points = mlp(activation=activation, fields=1), BOX.sample(9, seed=2)
    layers = network.effective_layers({})
    outputs, inputs, tapes = output_jets(network, points, indices)
    seed = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    with torch.no_grad():
        found = adjoint_jets(layers, tapes, seed, indices, lowest)
    assert len(found) == len(layers) - lowest

    watched = [layer._replace(weight=layer.weight.detach().clone().requires_grad_()) for layer in layers]
    watched = [layer._replace(bias=layer.bias.detach().clone().requires_grad_()) for layer in watched]
    again, _, _ = forward_jets(watched, features_of(network, points, indices), indices, activation)
    (again * seed).sum().backward()
    for D, H, layer in zip(found, inputs[lowest:], watched[lowest:], strict=True):
        weight = torch.einsum("snm,snk->mk", D, H)
        torch.testing.assert_close(weight, layer.weight.grad, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(D[0].sum(0), layer.bias.grad, rtol=1e-11, atol=1e-11)


def test_inputs_are_scaled_to_one_and_periodic_ones_are_cos_and_sin():
    network = mlp(periodic=("x",))
    corners = torch.tensor([[-1.0, 0.0], [3.0, 0.5], [0.0, 0.25]], dtype=torch.float64)
    found = torch.stack(network.features(corners.unbind(-1)), dim=-1)
    expected = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    assert network.layers[0].in_features == 3
    scaled = torch.stack(mlp().features(corners.unbind(-1)), dim=-1)
    torch.testing.assert_close(scaled, torch.tensor([[-1, -1], [1, 1], [-0.5, 0]], dtype=torch.float64))


def test_a_periodic_network_repeats_with_its_derivatives():
    network, indices = mlp(periodic=("x",)), SETS["all_2"]
    left, right = (BOX.sample_face(12, coordinate="x", side=s, seed=3) for s in ("lower", "upper"))
    a, b = (output_jets(network, points, indices)[0] for points in (left, right))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_seed_decides_the_weights_alone():
    first, again, other = (pl.MLP(BOX, seed=s) for s in (5, 5, 6))
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)
    single = pl.MLP(BOX, seed=5, dtype=torch.float32)
    assert torch.equal(single.layers[1].weight, first.layers[1].weight.float())


def test_making_a_network_touches_nothing_global():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1).item(), np.random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    pl.MLP(BOX, width=30)
    assert (torch.rand(1).item(), np.random.random()) == expected
    assert torch.get_default_dtype() == torch.float32


def test_weights_are_glorot_normal_and_biases_zero():
    """Standard deviation sqrt(2 / (n + m)) within 3 %: 40,000 numbers give 0.4 %."""
    network = pl.MLP(BOX, width=200, depth=2)
    inner = network.layers[1]
    assert inner.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.03)
    assert all(not layer.bias.any() for layer in network.layers)
    assert all(p.dtype == torch.float64 and p.requires_grad for p in network.parameters())


def test_shape_and_description():
    network = mlp(periodic=("t",), activation="sin")
    assert (network.width, network.depth) == (7, 3)
    assert [tuple(layer.weight.shape) for layer in network.layers] == [(7, 3), (7, 7), (7, 7), (2, 7)]
    twin = pl.MLP(BOX, **network.describe())
    twin.load_state_dict(network.state_dict())
    points = BOX.sample(5)
    assert torch.equal(twin(points), network(points))
    assert network(points).shape == (5, 2)


def test_effective_layers_take_what_they_are_given():
    network = mlp()
    weight, bias = torch.zeros(7, 7, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    layers = network.effective_layers({"layers.1.weight": weight, "layers.3.bias": bias})
    assert layers[1].weight is weight
    assert layers[3].bias is bias
    assert torch.equal(layers[0].weight, network.layers[0].weight)
    assert torch.equal(layers[3].weight, network.layers[3].weight)


def test_effective_layers_of_an_adapted_network_are_the_merged_ones():
    adapted = pl.adapt(mlp(), rank=2, initializer="balanced", scale=1.5)
    B, A = torch.ones(7, 2, dtype=torch.float64), torch.full((2, 7), 0.3, dtype=torch.float64)
    layer = adapted.layers[1]
    found = adapted.effective_layers({"layers.1.B": B, "layers.1.A": A})[1]
    torch.testing.assert_close(found.weight, layer.weight + 1.5 * (B @ A - layer.B0 @ layer.A0), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width and depth of at least 1, not 0 and 3"),
        ({"depth": 0}, "width and depth of at least 1, not 7 and 0"),
        ({"activation": "tanj"}, r"no activation 'tanj'; did you mean 'tanh'\? \(choices: tanh, sin, swish, gelu\)"),
        ({"periodic": ("y",)}, r"no coordinate 'y' \(coordinates: x, t\)"),
    ],
)
def test_bad_input_gives_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        mlp(**options)
