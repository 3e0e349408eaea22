"""Factors in a model of DeepXDE: trained there by every explicit method, the base untouched, the adapter saved as ours."""

import numpy as np
import pytest
import torch
from test_deepxde_in import burgers, dde, double, network  # noqa: F401

import pinn_lora as pl
from pinn_lora.dde.model import adapt_model
from pinn_lora.dde.problem import from_deepxde
from pinn_lora.factor_optimizer import FactorOptimizer
from pinn_lora.lora import LoRALinear
from pinn_lora.presets import PRESETS

EXPLICIT = [name for name, p in PRESETS.items() if p.trains == "factors" and not p.method.implicit]


def model_of(nu=0.1, **options):
    return dde.Model(burgers(nu), network(2, 1, **options))


def frozen(net):
    return {key: value.clone() for key, value in net.state_dict().items() if not key.endswith((".A", ".B"))}


def unchanged(held, net):
    return all(torch.equal(value, net.state_dict()[key]) for key, value in held.items())


@pytest.mark.parametrize("name", EXPLICIT)
def test_every_explicit_method_trains_the_factors_and_nothing_else(name):
    """By `compile` and `train`; the loss falls."""
    preset, model = PRESETS[name], model_of()
    base = adapt_model(model, rank=4, initializer=preset.initializer)
    held, start = frozen(model.net), [p.detach().clone() for p in model.net.parameters()]
    optimizer = FactorOptimizer(model.net, name, step_size=min(preset.step_size, 1e-3), max_steps=100)
    model.compile(optimizer, verbose=0)
    losses, _ = model.train(iterations=6, display_every=3, verbose=0)
    assert model.opt is optimizer and len(held) >= 6
    assert unchanged(held, model.net)
    assert not any(torch.equal(a, b) for a, b in zip(start[:1], model.net.parameters(), strict=False))
    assert sum(losses.loss_train[-1]) < sum(losses.loss_train[0])
    tuned = from_deepxde(model.data, model)
    assert all(
        torch.equal(value, base.network.state_dict()[key]) for key, value in tuned.base.network.state_dict().items()
    )


@pytest.mark.parametrize("transform", [None, "both"], ids=["mlp", "transformed"])
@pytest.mark.parametrize("initializer", ["zero_b", "balanced", "lora_ga"])
def test_the_start_is_the_model_and_the_adapter_comes_back(tmp_path, transform, initializer):
    model = model_of(transform=transform)
    points = np.random.default_rng(0).uniform(-1, 1, (30, 2))
    before = model.net(torch.from_numpy(points)).detach()
    base = adapt_model(model, rank=2, initializer=initializer)
    layers = [module for module in model.net.modules() if isinstance(module, LoRALinear)]
    assert [layer.rank for layer in layers] == [2] and base.base is None
    assert torch.allclose(model.net(torch.from_numpy(points)).detach(), before, rtol=0, atol=1e-13)
    assert np.allclose(base.predict(points), before, rtol=0, atol=1e-13)
    model.compile("adam", lr=1e-2, verbose=0)  # all that is a parameter: the factors alone
    held = frozen(model.net)
    model.train(iterations=5, verbose=0)
    assert unchanged(held, model.net)
    tuned = from_deepxde(model.data, model)
    assert np.allclose(tuned.predict(points), model.predict(points), rtol=0, atol=1e-12)
    assert np.abs(tuned.predict(points) - base.predict(points)).max() > 1e-4
    tuned.save(tmp_path / "adapter")
    again = pl.Solution.load(tmp_path / "adapter", base=base, problem=base.problem)
    assert np.array_equal(again.predict(points), tuned.predict(points))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_factors_on_all_layers_keep_the_network_as_it_is(tmp_path):
    """The first layer's bias would have to move with its factors in our own inputs, so it stays DeepXDE's network."""
    model = model_of()
    base = adapt_model(model, rank=1, targets="all")
    model.compile(FactorOptimizer(model.net, "lora-adam"), verbose=0)
    model.train(iterations=2, verbose=0)
    tuned = from_deepxde(model.data, model)
    assert type(tuned.network) is type(base.network) is dde.nn.FNN
    tuned.save(tmp_path / "adapter")
    again = pl.Solution.load(tmp_path / "adapter", base=base, problem=base.problem)
    points = base.problem.domain.sample(9)
    assert torch.equal(again.predict(points), tuned.predict(points))


def test_an_adapted_model_goes_on_in_finetune():
    model = model_of()
    adapt_model(model, rank=2)
    tuned = pl.finetune(from_deepxde(model.data, model), from_deepxde(burgers(nu=0.2)), rank=2, max_steps=3, points=60)
    assert tuned.history[-1].loss < tuned.history[0].loss


def test_what_does_not_fit_gets_one_sentence_and_changes_nothing():
    model = model_of()
    net = model.net
    with pytest.raises(ValueError, match=r"rank 9 does not fit the 7 x 7 layer 'linears\.1'"):
        adapt_model(model, rank=9)
    with pytest.raises(ValueError, match="no initializer 'zero'"):
        adapt_model(model, initializer="zero")
    assert model.net is net
    adapt_model(model, rank=2)
    with pytest.raises(ValueError, match="this model's network carries factors already"):
        adapt_model(model, rank=2)


@pytest.mark.parametrize("before", [None, "adam", "L-BFGS"])
def test_training_before_the_model_is_compiled_again_gets_one_sentence(before):
    """Compiled before it carried factors or never; afterwards all is as ever, and another model is not touched."""
    model, other = model_of(), model_of()
    for each in (model, other):
        if before:
            each.compile(before, lr=1e-3, verbose=0)
    adapt_model(model, rank=2)
    held = {key: value.clone() for key, value in model.net.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"call model\.compile\(pl\.FactorOptimizer\(model\.net, \.\.\.\)\) first"):
        model.train(iterations=2, verbose=0)
    assert unchanged(held, model.net) and from_deepxde(model.data, model).base is not None
    for each, optimizer in ((model, FactorOptimizer(model.net, "lora-adam")), (other, "adam")):
        each.compile(optimizer, lr=1e-3, verbose=0)
        losses, _ = each.train(iterations=2, display_every=1, verbose=0)
        assert np.isfinite(losses.loss_test).all()


def test_an_optimizer_of_another_models_factors_is_refused_at_its_first_step():
    model, other = model_of(), model_of()
    for each in (model, other):
        adapt_model(each, rank=2)
    held = [p.detach().clone() for p in other.net.parameters()]
    model.compile(FactorOptimizer(other.net, "odelora-rk4"), verbose=0)
    with pytest.raises(ValueError, match=r"leaves no gradient in these factors.* as FactorOptimizer\(model\.net\)$"):
        model.train(iterations=1, verbose=0)
    assert all(torch.equal(a, b) for a, b in zip(held, other.net.parameters(), strict=True))
