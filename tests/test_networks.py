"""The networks: their jets against autograd, against the published formulas, their features, and what their seed decides."""

import json
import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.reaction import Reaction

import pinn_lora as pl
from pinn_lora import networks
from pinn_lora.activations import ACTIVATIONS
from pinn_lora.catalog import find, names
from pinn_lora.jets import closure
from pinn_lora.networks import Network
from pinn_lora.training import network_for

NETWORKS = {name: find(networks, Network, name) for name in names(networks)}
BOX = pl.Domain(x=(-1.0, 3.0), t=(0.0, 0.5))
SETS = {
    "value": closure([]),
    "first": closure([(0,), (1,)]),
    "all_2": closure([(0, 0), (0, 1), (1, 1)]),
    "xxx_t": closure([(0, 0, 0), (1,)]),
    "xxtt": closure([(0, 0, 1, 1)]),
}
INPUTS = {
    "plain": {},
    "periodic": {"periodic": ("x",)},
    "fourier": {"periodic": ("t",), "fourier": 3, "factorised": True},
}


def network_of(name: str = "mlp", **options) -> Network:
    """Biases and residual connections that are not zero."""
    network = NETWORKS[name](BOX, **{"width": 7, "depth": 3, "fields": 2, "seed": 3, **options})
    with torch.no_grad():
        for i, layer in enumerate(network.layers):
            layer.bias.copy_(torch.linspace(-0.5, 0.7, len(layer.bias), dtype=layer.bias.dtype) + 0.1 * i)
        if network.alpha is not None:
            network.alpha.copy_(torch.linspace(0.3, 0.8, len(network.alpha), dtype=network.alpha.dtype))
    return network


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
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_jets_are_the_derivatives_of_forward(name, inputs, indices):
    network, points = network_of(name, depth=2, **INPUTS[inputs]), BOX.sample(12, seed=1)
    found, expected = network.jets(points, indices), by_autograd(network, points, indices)
    assert found.shape == (len(indices), 12, 2)
    # rounding of products of a few numbers of the size of the derivative itself
    assert ((found - expected).abs().amax((1, 2)) <= 1e-11 * expected.abs().amax((1, 2)).clamp_min(1)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jets_are_the_derivatives_of_forward_for_every_activation(activation):
    network, points, indices = network_of(activation=activation), BOX.sample(12, seed=1), SETS["xxtt"]
    found, expected = network.jets(points, indices), by_autograd(network, points, indices)
    assert ((found - expected).abs().amax((1, 2)) <= 1e-11 * expected.abs().amax((1, 2)).clamp_min(1)).all()


def test_a_modified_mlp_is_the_published_one():
    """Written out as in the paper, for two hidden layers."""
    network, points = network_of("modified_mlp", depth=2), BOX.sample(9, seed=1)
    W = [layer.weight for layer in network.layers]
    b = [layer.bias for layer in network.layers]
    X = torch.stack(network.features(points.unbind(-1)), dim=-1)
    U, V = torch.tanh(X @ W[0].T + b[0]), torch.tanh(X @ W[1].T + b[1])
    H = torch.tanh(X @ W[2].T + b[2])
    H = H * U + (1 - H) * V
    H = torch.tanh(H @ W[3].T + b[3])
    H = H * U + (1 - H) * V
    torch.testing.assert_close(network(points), H @ W[4].T + b[4], rtol=1e-13, atol=1e-13)
    assert network.hidden_layers == ["layers.3"]


def test_a_pirate_net_is_the_published_one():
    """Written out as in the paper, for two blocks, with every weight diag(exp s) V and random Fourier features."""
    network, points = network_of("pirate_net", depth=2, fourier=4, factorised=True), BOX.sample(9, seed=1)
    W = [torch.diag(layer.s.exp()) @ layer.V for layer in network.layers]
    b = [layer.bias for layer in network.layers]
    dense = lambda i, h: torch.tanh(h @ W[i].T + b[i])  # noqa: E731
    z = torch.stack([(points[:, 0] - 1.0) / 2.0, 4.0 * points[:, 1] - 1.0], dim=-1) @ network.frequencies.T
    x = torch.cat([torch.cos(z), torch.sin(z)], dim=-1)
    U, V = dense(0, x), dense(1, x)
    for block in range(2):
        f = dense(2 + 3 * block, x)
        z1 = f * U + (1 - f) * V
        g = dense(3 + 3 * block, z1)
        z2 = g * U + (1 - g) * V
        h = dense(4 + 3 * block, z2)
        x = network.alpha[block] * h + (1 - network.alpha[block]) * x
    torch.testing.assert_close(network(points), x @ W[8].T + b[8], rtol=1e-12, atol=1e-12)
    assert network.hidden_layers == [f"layers.{i}" for i in (3, 4, 5, 6, 7)]


def test_a_pirate_net_begins_linear_in_its_features():
    network, points = pl.PirateNet(BOX, fourier=5, fields=2), BOX.sample(6)
    features = torch.stack(network.features(points.unbind(-1)), dim=-1)
    assert torch.equal(network.alpha, torch.zeros(3, dtype=torch.float64))
    last = network.layers[-1]
    torch.testing.assert_close(network(points), features @ last.weight.T, rtol=1e-14, atol=1e-14)
    assert last.in_features == 10


@pytest.mark.parametrize("factorised", [False, True])
def test_a_pirate_net_may_begin_at_the_initial_condition(factorised):
    """With alpha = 0 it is linear in its features, so a function in their span is met exactly; another one in the mean square,
    the misfit orthogonal to the features."""
    network = pl.PirateNet(BOX, fourier=5, fields=2, depth=1, factorised=factorised)
    points = BOX.sample(80, seed=4)
    features = torch.stack(network.features(points.unbind(-1)), dim=-1)
    inside, other = features @ torch.linspace(-1.0, 1.0, 10, dtype=torch.float64) + 0.3, points[:, 0] ** 3
    values = torch.stack([inside, other], dim=-1)
    fitted = network.fitted(points, values)
    misfit = (fitted(points) - values).detach()
    assert misfit[:, 0].abs().max() < 1e-9  # the features' condition number is about 1e5
    assert misfit[:, 1].norm() > 1e-3 * other.norm()
    assert (features.T @ misfit[:, 1]).abs().max() < 1e-9 * len(points)
    assert misfit[:, 1].sum().abs() < 1e-9 * len(points)
    assert not network.layers[-1].bias.any()
    with pytest.raises(ValueError, match=r"values have shape \(80,\); give \(80, 2\)"):
        network.fitted(points, other)


def test_fourier_features_are_cos_and_sin_of_random_angles():
    network = network_of(fourier=400, fourier_scale=2.5)
    points = BOX.sample(5)
    found = torch.stack(network.features(points.unbind(-1)), dim=-1)
    scaled = torch.stack(network_of().features(points.unbind(-1)), dim=-1)
    angles = scaled @ network.frequencies.T
    torch.testing.assert_close(found, torch.cat([angles.cos(), angles.sin()], -1), rtol=0, atol=1e-14)
    assert network.frequencies.std().item() == pytest.approx(2.5, rel=0.08)  # 800 numbers give 2.5 %
    assert "frequencies" not in dict(network.named_parameters())
    assert "frequencies" in network.state_dict()


def test_inputs_are_scaled_to_one_and_periodic_ones_are_cos_and_sin():
    network = network_of(periodic=("x",))
    corners = torch.tensor([[-1.0, 0.0], [3.0, 0.5], [0.0, 0.25]], dtype=torch.float64)
    found = torch.stack(network.features(corners.unbind(-1)), dim=-1)
    expected = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    assert network.layers[0].in_features == 3
    scaled = torch.stack(network_of().features(corners.unbind(-1)), dim=-1)
    torch.testing.assert_close(scaled, torch.tensor([[-1, -1], [1, 1], [-0.5, 0]], dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"fourier": 3}], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_periodic_network_repeats_with_its_derivatives(name, options):
    network, indices = network_of(name, periodic=("x",), **options), SETS["all_2"]
    left, right = (BOX.sample_face(12, coordinate="x", side=s, seed=3) for s in ("lower", "upper"))
    a, b = (network.jets(points, indices) for points in (left, right))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_seed_decides_the_weights_alone():
    first, again, other = (pl.MLP(BOX, seed=s) for s in (5, 5, 6))
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)
    single = pl.MLP(BOX, seed=5, dtype=torch.float32)
    assert torch.equal(single.layers[1].weight, first.layers[1].weight.float())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_factorised_network_begins_as_the_plain_one(name):
    plain, factorised = (network_of(name, factorised=f, seed=5) for f in (False, True))
    points = BOX.sample(6)
    torch.testing.assert_close(factorised(points), plain(points), rtol=1e-13, atol=1e-13)
    s = torch.cat([layer.s for layer in network_of(width=300, factorised=True).layers])
    assert s.mean().item() == pytest.approx(1.0, abs=0.02)  # 902 numbers of deviation 0.1 give 0.003
    assert s.std().item() == pytest.approx(0.1, rel=0.1)


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


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_description_builds_the_shape_again(name, inputs):
    network = network_of(name, activation="sin", **INPUTS[inputs])
    twin = type(network)(BOX, **network.describe())
    twin.load_state_dict(network.state_dict())
    points = BOX.sample(5)
    assert torch.equal(twin(points), network(points))
    assert network(points).shape == (5, 2)
    assert network.describe()["depth"] == 3


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_base_and_its_adapter_come_back_from_disk(name, inputs, tmp_path):
    problem = Burgers(nu=0.1, form="soft")
    network = NETWORKS[name](problem.domain, width=5, depth=2, **INPUTS[inputs])
    for parameter in network.parameters():
        parameter.data += 0.1
    base = pl.Solution(problem, network)
    again = pl.Solution.load(base.save(tmp_path / "base"))
    points = problem.domain.sample(7)
    assert type(again.network) is NETWORKS[name]
    assert torch.equal(again.predict(points), base.predict(points))
    assert {key for key, _ in again.network.named_parameters()} == {key for key, _ in network.named_parameters()}

    adapted = pl.adapt(pl.merge(network), rank=2, initializer="balanced", train_biases=True, train_output=True)
    for parameter in adapted.parameters():
        parameter.data += 0.1
    tuned = pl.Solution(problem, adapted, base)
    loaded = pl.Solution.load(tuned.save(tmp_path / "adapter"), base=base)
    assert torch.equal(loaded.predict(points), tuned.predict(points))
    assert not torch.equal(tuned.predict(points), base.predict(points))

    merged = pl.Solution(problem, pl.merge(adapted), base)
    found = pl.Solution.load(merged.save(tmp_path / "merged"), base=base)
    torch.testing.assert_close(found.predict(points), tuned.predict(points), rtol=1e-13, atol=1e-13)


def test_a_network_of_another_shape_than_the_base_is_one_sentence(tmp_path):
    problem = Burgers(nu=0.1, form="soft")
    two, three = (pl.Solution(problem, pl.MLP(problem.domain, width=4, depth=d)) for d in (2, 3))
    with pytest.raises(ValueError, match="holds a network of another shape than the base"):
        pl.Solution.load(two.save(tmp_path / "two"), base=three)


def test_a_network_saved_before_there_were_others_is_an_mlp(tmp_path):
    problem = Burgers(nu=0.1, form="soft")
    base = pl.Solution(problem, pl.MLP(problem.domain, width=4, depth=2))
    folder = base.save(tmp_path / "base")
    notes = json.loads((folder / "pinn_lora.json").read_text())
    notes["network"] = {key: notes["network"][key] for key in ("fields", "width", "depth", "periodic", "activation")}
    (folder / "pinn_lora.json").write_text(json.dumps(notes))
    assert torch.equal(pl.Solution.load(folder).network.layers[1].weight, base.network.layers[1].weight)
    notes["network"] |= {"module": "pinn_lora.networks.mlp", "class": "MPL"}
    (folder / "pinn_lora.json").write_text(json.dumps(notes))
    with pytest.raises(
        ValueError, match=r"the network pinn_lora\.networks\.mlp\.MPL, which cannot be imported; pass base="
    ):
        pl.Solution.load(folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_adapting_freezes_all_but_the_factors_and_merging_gives_all_back(name):
    network, points = network_of(name, fourier=3, factorised=True), BOX.sample(6)
    adapted = pl.adapt(network, rank=2)
    assert torch.equal(adapted(points), pl.merge(network)(points))  # zero B: bit for bit
    torch.testing.assert_close(adapted(points), network(points), rtol=1e-14, atol=1e-14)
    assert {key.rpartition(".")[2] for key, _ in adapted.named_parameters()} == {"B", "A"}
    merged = pl.merge(adapted)
    assert {key for key, _ in merged.named_parameters()} == {key for key, _ in pl.merge(network).named_parameters()}
    assert [key for key, _ in merged.named_buffers()] == ["frequencies"]
    assert torch.equal(merged(points), adapted(points))
    assert {key.rpartition(".")[2] for key, _ in network.named_parameters()} >= {"V", "s", "bias"}  # as it was


def test_factors_may_go_anywhere_by_name():
    network = network_of("pirate_net", depth=1)
    assert network.hidden_layers == ["layers.3", "layers.4"]
    for targets, count in (("hidden", 2), ("all", 6), (["layers.0", "layers.2"], 2)):
        adapted = pl.adapt(network, rank=1, targets=targets)
        assert sum(isinstance(layer, pl.LoRALinear) for layer in adapted.layers) == count


def test_effective_layers_take_what_they_are_given():
    network = network_of()
    weight, bias = torch.zeros(7, 7, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    layers = network.effective_layers({"layers.1.weight": weight, "layers.3.bias": bias})
    assert layers[1].weight is weight
    assert layers[3].bias is bias
    assert torch.equal(layers[0].weight, network.layers[0].weight)
    assert torch.equal(layers[3].weight, network.layers[3].weight)


def test_effective_layers_of_an_adapted_network_are_the_merged_ones():
    adapted = pl.adapt(network_of(), rank=2, initializer="balanced", scale=1.5)
    B, A = torch.ones(7, 2, dtype=torch.float64), torch.full((2, 7), 0.3, dtype=torch.float64)
    layer = adapted.layers[1]
    found = adapted.effective_layers({"layers.1.B": B, "layers.1.A": A})[1]
    torch.testing.assert_close(found.weight, layer.weight + 1.5 * (B @ A - layer.B0 @ layer.A0), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width and depth of at least 1, not 0 and 3"),
        ({"depth": 0}, "width and depth of at least 1, not 7 and 0"),
        (
            {"fourier": -1},
            "fourier=-1 and fourier_scale=1.0: give a number of frequencies, 0 for none, and a positive scale",
        ),
        ({"fourier": 2, "fourier_scale": 0.0}, "fourier=2 and fourier_scale=0.0: give a number"),
        ({"activation": "tanj"}, r"no activation 'tanj'; did you mean 'tanh'\? \(choices: tanh, sin, swish, gelu\)"),
        ({"periodic": ("y",)}, r"no coordinate 'y' \(coordinates: x, t\)"),
    ],
)
def test_bad_input_gives_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        network_of(**options)


def test_a_network_is_built_from_its_name_and_options():
    problem = Burgers(form="soft")
    shape = {"width": 7, "depth": 2, "seed": 3}
    for spec, expected in (
        ("modified_mlp", pl.ModifiedMLP(problem.domain, **shape)),
        ({"activation": "sin", "fourier": 4}, pl.MLP(problem.domain, activation="sin", fourier=4, **shape)),
        ({"name": "pirate_net"}, pl.PirateNet(problem.domain, **shape)),  # with the frequencies of its own default
    ):
        found = network_for(problem, spec, **shape)
        assert type(found) is type(expected) and found.describe() == expected.describe()
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))


TRAINED = {
    "fourier mlp": ("mlp", {"fourier": 6, "fourier_scale": 1.0}),
    "factorised mlp": ("mlp", {"factorised": True}),
    "modified_mlp": ("modified_mlp", {}),
    "pirate_net": ("pirate_net", {"depth": 1, "fourier": 4}),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_every_network_learns_a_problem_and_then_another_member_of_its_family(kind):
    """Against the closed form: 1 % for the base, and three times nearer than the base unchanged for the member."""
    name, options = TRAINED[kind]
    problem, member = Reaction(rho=3.0), Reaction(rho=4.0)
    shape = {"width": 8, "depth": 2, "periodic": problem.periodic, **options}
    network = NETWORKS[name](problem.domain, **shape)
    base = pl.pretrain(problem, network=network, max_steps=30, points=300, resample_every=None)
    assert base.relative_l2() < 1e-2
    tuned = pl.finetune(base, member, rank=2, max_steps=20, points=300, resample_every=None)
    assert tuned.relative_l2() < tuned.compare_to_base() / 3


def test_a_network_of_ones_own_is_one_class(monkeypatch, tmp_path):
    """docs/architecture.md's example: its jets, its factors, and back from disk, with no edit elsewhere."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text()
    module = types.ModuleType("skip_network")
    monkeypatch.setitem(sys.modules, "skip_network", module)
    exec(
        f"from pinn_lora.networks import Network\n{re.search(r'```python(.*?)```', page, flags=re.S)[1]}", vars(module)
    )
    problem = Burgers(form="soft")
    network = module.Skip(problem.domain, width=5, depth=3)
    network.alpha.data += 0.4
    points, indices = problem.domain.sample(6), SETS["all_2"]
    torch.testing.assert_close(network.jets(points, indices), by_autograd(network, points, indices), rtol=0, atol=1e-11)
    base = pl.Solution(problem, network)
    again = pl.Solution.load(base.save(tmp_path / "base")).network
    assert type(again) is module.Skip
    assert torch.equal(again(points), network(points))
    assert len(pl.adapt(again, rank=2).hidden_layers) == 2
