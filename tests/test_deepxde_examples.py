"""DeepXDE's published examples, shortened: brought in, adapted to another member, and trained with factors in DeepXDE."""

import copy
import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_deepxde_in import double  # noqa: F401

import pinn_lora as pl
from pinn_lora.dde.load import load_deepxde, without_warnings

load_deepxde()  # before the examples import it
_path = Path(__file__).resolve().parents[1] / "benchmarks" / "deepxde_examples.py"
_spec = importlib.util.spec_from_file_location("deepxde_examples", _path)
assert _spec and _spec.loader
examples = sys.modules["deepxde_examples"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(examples)
dde = examples.dde

# coefficients of the base and of the other member, steps from scratch, weights, and what the adapted one's error stays below
SHORT = {
    "burgers": (0.1, 0.2, 40, {"initial": 10.0, "dirichlet": 10.0}, 2e-2),
    "allen_cahn": (0.1, 0.15, 40, {}, 0.1),
    "helmholtz": (1.0, 0.7, 25, {}, 1e-2),
    "poisson_lshape": (0.0, 10.0, 40, {"dirichlet": 100.0}, 0.15),
}


def short(name):
    """The example as published, Helmholtz with one wave instead of two."""
    example = examples.EXAMPLES[name]
    if name != "helmholtz":
        return example
    make = lambda c, width: examples.helmholtz(c, width, n=1.0)  # noqa: E731
    return dataclasses.replace(example, make=make, exact=lambda c, x: examples.helmholtz_exact(c, x, n=1.0))


def test_every_example_is_tried():
    assert set(SHORT) == set(examples.EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_an_example_is_adapted_here_and_in_deepxde(name):
    """The base by 50 steps of DeepXDE's Adam and a few of ours; then another member by `finetune`, against the true solution
    and against the base unchanged, and 30 steps of L-BFGS on the factors by model.train, the base bit for bit as it was."""
    (base_at, other_at, steps, weights, accuracy), example, width = SHORT[name], short(name), 12
    torch.manual_seed(0)
    np.random.seed(0)
    with without_warnings():
        model = dde.Model(*example.make(base_at, width))
        other = example.make(other_at, width)[0]
        model.compile("adam", lr=1e-2, verbose=0)
        model.train(iterations=50, verbose=0)
    base = pl.from_deepxde(model.data, model)
    quick = {"points": 300, "weights": weights}
    base = pl.pretrain(base.problem, network=base.network, max_steps=steps, **quick)
    target = pl.from_deepxde(other)
    tuned = pl.finetune(base, target, rank=4, max_steps=25, train_biases=True, train_output=True, **quick)
    zero_shot = examples.error(example, other_at, pl.Solution(target, base.network))
    assert examples.error(example, other_at, tuned) < min(accuracy, 0.4 * zero_shot)

    adapted = dde.Model(other, copy.deepcopy(model.net))
    plain = pl.adapt_model(adapted, rank=4)
    held = {key: value.clone() for key, value in adapted.net.state_dict().items() if not key.endswith((".A", ".B"))}
    with without_warnings():
        adapted.compile(pl.FactorOptimizer(adapted.net, "lora-lbfgs"), verbose=0)
        losses, _ = adapted.train(iterations=30, display_every=10, verbose=0)
    assert sum(losses.loss_train[-1]) < 0.9 * sum(losses.loss_train[0])
    assert all(torch.equal(value, adapted.net.state_dict()[key]) for key, value in held.items())
    found = pl.from_deepxde(other, adapted)
    points = target.domain.sample(50).numpy()
    assert np.allclose(found.predict(points), adapted.predict(points), rtol=0, atol=1e-12)
    assert found.base is not None and np.array_equal(found.base.predict(points), plain.predict(points))


def test_the_allen_cahn_reference_has_converged():
    """Half the nodes differ by less than 2e-5."""
    fine, coarse = (examples.allen_cahn_path(1e-3, n) for n in (320, 160))
    shared = np.r_[-1.0, fine[1](0.7), -1.0][::2]
    assert np.abs(shared - np.r_[-1.0, coarse[1](0.7), -1.0]).max() < 2e-5
