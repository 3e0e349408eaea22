"""Adapters: the start is the base, merged is unmerged, frozen is frozen, and theta is what the network holds."""

import copy
import itertools

import numpy as np
import pytest
import torch
from probes import probes_of
from torch import nn

import pinn_lora as pl
from pinn_lora import catalog, initializers
from pinn_lora.lora import Blocks, DenseBlock, LoRALinear, PairBlock, freeze, target_layers

BOX = pl.Domain(x=(-1.0, 1.0), t=(0.0, 1.0))
STARTS = catalog.names(initializers)
THIN = [name for name in STARTS if name != "lora_ga"]  # it takes 2 r singular vectors, and a thin layer has fewer


def base(**options) -> pl.MLP:
    network = pl.MLP(BOX, **{"width": 8, "depth": 3, "fields": 2, "seed": 4, **options})
    with torch.no_grad():
        for layer in network.layers:
            layer.bias.copy_(torch.linspace(-0.3, 0.4, len(layer.bias)))
    return network


def moved(network: nn.Module, *, size: float = 0.3) -> nn.Module:
    """The network with everything it trains pushed somewhere else."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in network.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
    return network


def plain_torch() -> nn.Module:
    """A network that is not ours, with a layer without bias."""
    torch.manual_seed(0)
    layers = (nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 1))
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("scale", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("targets", ["hidden", "all"])
@pytest.mark.parametrize("start", STARTS)
def test_the_start_is_the_base(start, targets, scale):
    if targets == "all" and start not in THIN:
        pytest.skip("not for thin layers")
    network, points = base(), BOX.sample(50)
    adapted = pl.adapt(
        network, probes=probes_of(network), rank=2, initializer=start, targets=targets, scale=scale, seed=1
    )
    with torch.no_grad():
        difference = (adapted(points) - network(points)).abs().max()
    unmoved = all(
        not layer.B.any() or not layer.A.any() for layer in adapted.modules() if isinstance(layer, LoRALinear)
    )
    assert difference == 0 if unmoved else difference <= 1e-14


def test_zero_b_starts_bit_identical_and_keeps_no_copy():
    adapted = pl.adapt(base(), rank=2, initializer="zero_b", scale=0.7)
    layer = adapted.layers[1]
    assert layer.B0 is None
    assert layer.A0 is None
    assert torch.equal(layer.effective_weight(layer.B, layer.A), base().layers[1].weight)
    assert torch.equal(adapted(BOX.sample(20)), base()(BOX.sample(20)))


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("start", STARTS)
def test_merged_equals_unmerged(start, scale):
    adapted = moved(
        pl.adapt(
            base(),
            probes=probes_of(base()),
            rank=2,
            initializer=start,
            scale=scale,
            train_biases=True,
            train_output=True,
        )
    )
    merged, points = pl.merge(adapted), BOX.sample(50)
    assert not any(isinstance(module, LoRALinear) for module in merged.modules())
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in base().named_parameters()}
    assert not list(merged.buffers())
    with torch.no_grad():
        assert (adapted(points) - base()(points)).abs().max() > 1e-2
        torch.testing.assert_close(merged(points), adapted(points), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("start", STARTS)
def test_the_adapted_layer_is_the_formula(start):
    adapted = moved(pl.adapt(base(), probes=probes_of(base()), rank=2, initializer=start, scale=1.7))
    original = pl.adapt(base(), probes=probes_of(base()), rank=2, initializer=start, scale=1.7)
    layer, first = adapted.layers[2], original.layers[2]
    expected = base().layers[2].weight + 1.7 * (layer.B @ layer.A - first.B @ first.A)
    torch.testing.assert_close(layer.effective_weight(layer.B, layer.A), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("start", STARTS)
def test_base_weights_are_no_parameters_and_requires_grad_cannot_make_them_so(start):
    network = base()
    adapted = pl.adapt(network, probes=probes_of(network), rank=2, initializer=start)
    trained = {"layers.1.B", "layers.1.A", "layers.2.B", "layers.2.A"}
    assert {name for name, _ in adapted.named_parameters()} == trained
    adapted.requires_grad_()
    adapted.train()
    optimizer = torch.optim.SGD(adapted.parameters(), lr=0.1, weight_decay=0.1)
    adapted(BOX.sample(30)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(
        adapted.layers[1].B, pl.adapt(network, probes=probes_of(network), rank=2, initializer=start).layers[1].B
    )
    for i in range(4):
        assert torch.equal(adapted.layers[i].weight, network.layers[i].weight)
        assert torch.equal(adapted.layers[i].bias, network.layers[i].bias)
        assert not adapted.layers[i].weight.requires_grad


@pytest.mark.parametrize("start", THIN)
def test_adapting_and_merging_leave_the_network_untouched(start):
    network = base()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adapted = pl.adapt(network, probes=probes_of(network), rank=2, initializer=start, targets="all", train_biases=True)
    held = {name: value.clone() for name, value in adapted.state_dict().items()}
    moved(pl.merge(adapted))
    assert all(torch.equal(adapted.state_dict()[name], value) for name, value in held.items())
    moved(adapted)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in network.parameters())


def test_a_seed_decides_the_factors_and_nothing_global_moves():
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    first, again, other = (pl.adapt(base(), rank=2, initializer="balanced", seed=s) for s in (7, 7, 8))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.layers[1].A, again.layers[1].A)
    assert not torch.equal(first.layers[1].A, other.layers[1].A)
    assert not torch.equal(first.layers[1].A, first.layers[2].A)


@pytest.mark.parametrize("rank", [0, -1, 9])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(ValueError, match=rf"^rank {rank} does not fit the 8 x 8 layer 'layers.1'; choose 1 to 8$"):
        pl.adapt(base(), rank=rank)


@pytest.mark.parametrize("rank", [True, 2.5, "2", {"layers.1": True}, {"layers.1": 2.5}], ids=repr)
def test_a_rank_that_is_no_whole_number_is_refused(rank):
    said = f"rank is {rank!r}" if not isinstance(rank, dict) else f"the rank of layers.1 is {rank['layers.1']!r}"
    with pytest.raises(ValueError, match=rf"^{said}; give a whole number$"):
        pl.adapt(base(), rank=rank)


def test_ranks_by_name_are_the_targets():
    """Other targets beside them would be ignored; the same ones say it twice."""
    ranks = {"layers.2": 2, "layers.1": np.int64(1)}
    for targets in (None, "hidden", ["layers.1", "layers.2"]):
        adapted = pl.adapt(base(), rank=ranks, targets=targets)
        found = {name: layer.rank for name, layer in adapted.named_modules() if isinstance(layer, LoRALinear)}
        assert found == {"layers.1": 1, "layers.2": 2}
    for targets in ("all", ["layers.2"]):
        said = r"^rank names the layers layers.2, layers.1 and targets is .*; leave targets out$"
        with pytest.raises(ValueError, match=said):
            pl.adapt(base(), rank=ranks, targets=targets)
    with pytest.raises(
        ValueError, match=r"^rank is \{\}; give the rank of at least one layer by its name, or one rank for"
    ):
        pl.adapt(base(), rank={})


def test_the_smaller_side_limits_the_rank():
    assert pl.adapt(base(), rank=8).layers[1].rank == 8
    with pytest.raises(ValueError, match=r"rank 3 does not fit the 8 x 2 layer 'layers.0'; choose 1 to 2"):
        pl.adapt(base(), rank=3, targets="all")


def test_a_rank_that_is_multiplied_is_refused_in_the_users_own_terms():
    assert pl.adapt(base(), rank=4, rank_factor=2).layers[1].rank == 8
    said = "as this method's factors have 2 times the rank"
    with pytest.raises(ValueError, match=rf"^rank 5 does not fit the 8 x 8 layer 'layers.1', {said}; choose 1 to 4$"):
        pl.adapt(base(), rank=5, rank_factor=2)
    with pytest.raises(ValueError, match=rf"^rank 1 .* 8 x 2 layer .*{said.replace('2', '3')}; no rank does; choose"):
        pl.adapt(base(), rank=1, rank_factor=3, targets="all")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match=f"scale is {scale}; it must be a positive number"):
        pl.adapt(base(), rank=2, scale=scale)


def test_targets():
    assert target_layers(base(), "hidden") == ["layers.1", "layers.2"]
    assert target_layers(base(), "all") == ["layers.0", "layers.1", "layers.2", "layers.3"]
    assert target_layers(base(), ["layers.3", "layers.1"]) == ["layers.3", "layers.1"]
    adapted = pl.adapt(base(), rank=1, targets=["layers.0"])
    assert [isinstance(layer, LoRALinear) for layer in adapted.layers] == [True, False, False, False]


@pytest.mark.parametrize(
    ("network", "targets", "message"),
    [
        (base(), "hiden", r"no targets 'hiden' \(choices: hidden, all, or a list of layer names\)"),
        (base(), ["layers.9"], r"no linear layer 'layers.9' \(layers: layers.0, .*layers.3\)"),
        (base(depth=1), "hidden", r"targets='hidden' names no layer of this network \(layers: layers.0, layers.1\)"),
        (base(), [], r"targets=\[\] names no layer"),
        (nn.Sequential(nn.Tanh()), "all", r"names no layer of this network \(layers: none\)"),
    ],
)
def test_unknown_targets_are_refused(network, targets, message):
    with pytest.raises(ValueError, match=message):
        pl.adapt(network, rank=1, targets=targets)


@pytest.mark.parametrize(
    ("biases", "output", "trained"),
    [
        (False, False, set()),
        (True, False, {f"layers.{i}.bias" for i in range(4)}),
        (False, True, {"layers.3.weight", "layers.3.bias"}),
        (True, True, {"layers.3.weight", *(f"layers.{i}.bias" for i in range(4))}),
    ],
)
def test_biases_and_the_output_are_trained_where_asked(biases, output, trained):
    adapted = pl.adapt(base(), rank=2, train_biases=biases, train_output=output)
    factors = {f"layers.{i}.{f}" for i in (1, 2) for f in "AB"}
    assert {name for name, _ in adapted.named_parameters()} == factors | trained
    points = BOX.sample(9)
    assert torch.equal(adapted(points), base()(points))


@pytest.mark.parametrize("start", STARTS)
def test_other_networks_are_adapted_too(start):
    network, points = plain_torch(), BOX.sample(9)
    adapted = pl.adapt(network, probes=probes_of(network), rank=2, initializer=start)
    assert {name for name, _ in adapted.named_parameters()} == {"2.B", "2.A"}
    torch.testing.assert_close(adapted(points), network(points), rtol=0, atol=1e-14)
    merged = pl.merge(moved(adapted))
    torch.testing.assert_close(merged(points), adapted(points), rtol=1e-14, atol=1e-14)


def test_float32_networks_stay_float32():
    adapted = pl.adapt(base().float(), rank=2, initializer="balanced")
    assert all(value.dtype == torch.float32 for value in adapted.state_dict().values())


def test_freeze_keeps_what_it_is_told_to():
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach().clone()
    freeze(layer, keep=("bias",))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert torch.equal(layer.weight, weight)
    assert "weight" in layer.state_dict()


# theta


def blocks_of(**options):
    adapted = moved(pl.adapt(base(), rank=2, initializer="balanced", scale=1.5, **options))
    return adapted, Blocks(adapted)


@pytest.mark.parametrize("options", [{}, {"train_biases": True}, {"train_biases": True, "train_output": True}], ids=str)
def test_theta_round_trip(options):
    adapted, blocks = blocks_of(**options)
    theta = blocks.read(adapted)
    assert theta.shape == (blocks.size,)
    assert blocks.size == sum(p.numel() for p in adapted.parameters())
    assert not theta.requires_grad
    before = theta.clone()
    other = theta + torch.arange(blocks.size, dtype=torch.float64) + 1.0
    blocks.write(adapted, other)
    assert torch.equal(blocks.read(adapted), other)
    for name, value in blocks.parameters(other).items():
        assert torch.equal(dict(adapted.named_parameters())[name], value)
    assert torch.equal(theta, before)  # read gave a copy


@pytest.mark.parametrize("options", [{}, {"train_biases": True, "train_output": True}], ids=str)
def test_blocks_lie_side_by_side(options):
    adapted, blocks = blocks_of(**options)
    places = sorted((block.slice.start, block.slice.stop) for block in blocks.blocks)
    assert places[0][0] == 0
    assert places[-1][1] == blocks.size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(places))
    assert {key for block in blocks.blocks for key in block.keys} == {name for name, _ in adapted.named_parameters()}
    assert [block.name for block in blocks.pairs] == ["layers.1", "layers.2"]
    assert all(block.scale == 1.5 and block.shapes == ((8, 2), (2, 8)) for block in blocks.pairs)


def test_a_block_splits_its_piece_into_views():
    adapted, blocks = blocks_of()
    theta = blocks.read(adapted)
    block = blocks.pairs[1]
    B, A = block.split(theta[block.slice])
    assert torch.equal(B, adapted.layers[2].B)
    assert torch.equal(A, adapted.layers[2].A)
    A.zero_()
    assert not theta[block.slice][16:].any()


def test_a_plain_network_is_dense_blocks():
    network = base()
    blocks = Blocks(network)
    assert all(isinstance(block, DenseBlock) and not isinstance(block, PairBlock) for block in blocks.blocks)
    assert [block.name for block in blocks.blocks] == [name for name, _ in network.named_parameters()]
    assert blocks.pairs == []
    assert blocks.drift(blocks.read(network)) is None


def test_a_network_with_nothing_to_train_is_refused():
    frozen = copy.deepcopy(base())
    for module in frozen.modules():
        freeze(module)
    with pytest.raises(ValueError, match="nothing to train"):
        Blocks(frozen)


def test_drift_measures_imbalance():
    adapted, blocks = blocks_of()
    theta = blocks.read(adapted)
    expected = 0.0
    for layer in (adapted.layers[1], adapted.layers[2]):
        B, A = layer.B.detach(), layer.A.detach()
        expected += float((B.T @ B - A @ A.T).norm() / (B.norm() ** 2 + A.norm() ** 2))
    assert blocks.drift(theta) == pytest.approx(expected, rel=1e-13)
    assert expected > 0.01
    start = pl.adapt(base(), rank=2, initializer="balanced")
    assert Blocks(start).drift(Blocks(start).read(start)) < 1e-15
