"""Factors in a model of DeepXDE, to be trained there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from pinn_lora import initializers
from pinn_lora.catalog import build
from pinn_lora.dde.load import load_deepxde
from pinn_lora.dde.networks import is_adapted
from pinn_lora.dde.problem import from_deepxde
from pinn_lora.initializers import Initializer
from pinn_lora.lora import adapt
from pinn_lora.objective import probe
from pinn_lora.points import first_points
from pinn_lora.rslora import Scale
from pinn_lora.solution import Solution
from pinn_lora.training import PROBE


def adapt_model(
    model: Any,
    *,
    rank: int = 8,
    targets: str | Sequence[str] | None = None,
    initializer: str | Initializer = "zero_b",
    scale: Scale = 1.0,
    seed: int = 0,
) -> Solution:
    """Puts rank-r factors into the network of a `deepxde.Model` and returns the base, the solution that the model was.

    model.net becomes an adapted copy, in which all but the factors are buffers, so that nothing trains them; compile the
    model again, with a `FactorOptimizer(model.net, ...)` or with "adam", which then trains the factors alone. After
    `model.train`, `from_deepxde(model.data, model)` is the adapted solution, and its `save` writes the adapter. The arguments
    are those of `adapt`. ValueError, the model being as before, for what is no Model, for a network that carries factors
    already and for data that `from_deepxde` does not take. `model.train` before it is compiled again raises RuntimeError.
    """
    if not isinstance(model, load_deepxde().Model):
        raise ValueError(
            f"adapt_model takes a deepxde.Model, and this is {type(model).__name__}; pl.adapt takes a network"
        )
    if is_adapted(model.net):
        raise ValueError("this model's network carries factors already; train them, or give its base to a new Model")
    solution = from_deepxde(model.data, model)
    start = build(initializers, Initializer, initializer)
    probes = None
    if start.needs_probe:
        points = first_points(solution.problem, PROBE, seed=seed)
        probes = probe(solution.problem, model.net, points, targets=targets, weights=solution.settings["weights"])
    network = adapt(model.net, rank=rank, targets=targets, initializer=start, scale=scale, probes=probes, seed=seed)
    adapted = from_deepxde(model.data, network)
    assert adapted.base is not None
    model.net, model.opt = network, None  # an optimizer from before would train what is no longer there
    model.outputs_losses_test = _not_compiled  # `compile` puts its own in its place
    if model.opt_name is None:  # of a compiled model the other one is kept: `check_loss` reads it
        model.outputs_losses_train = _not_compiled
    return adapted.base


def _not_compiled(*_: Any) -> NoReturn:
    """What `train` of a model calls before its first step, as long as nothing trains its factors."""
    raise RuntimeError(
        "nothing trains this model's factors yet: call model.compile(pl.FactorOptimizer(model.net, ...)) first, or "
        'model.compile("adam", lr=...)'
    )
