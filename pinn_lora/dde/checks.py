"""What a network or a model of DeepXDE must be to be taken over; one sentence for what it is not."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from pinn_lora.dde.load import load_deepxde
from pinn_lora.places import ProblemError, place_of, sentence


def check_data(data: Any) -> None:
    """ValueError for data whose residuals are not a pde's at points, and for another mode of derivatives."""
    dde = load_deepxde()
    if not isinstance(data, dde.data.PDE) or isinstance(data, (dde.data.FPDE, dde.data.IDE)):
        raise ValueError(f"from_deepxde takes a deepxde.data.PDE or TimePDE, and this is {type(data).__name__}")
    if data.pde is None:
        raise ValueError("this data has no pde; give one, or use pl.Problem with pl.data(points, values)")
    if dde.config.autodiff != "reverse":
        raise ValueError(f"DeepXDE is set to {dde.config.autodiff}-mode derivatives; set it back to reverse mode")


def check_types(network: nn.Module, data: Any) -> None:
    """ValueError for a network without values; ProblemError, with the pde's file and line, for a network and points of two
    types, which no training takes together."""
    values = list(network.state_dict().values())
    if not values:
        raise ValueError(f"the network {type(network).__name__} has no parameters; give one that can be trained")
    types = [str(values[0].dtype).removeprefix("torch."), str(data.train_x.dtype)]
    if types[0] != types[1]:
        raise ProblemError(
            f"{place_of(data.pde)}: the network is {types[0]} and the data's points are {types[1]}; make both after "
            f"dde.config.set_default_float, or bring the network to {types[1]}"
        )


def check_loss(model: Any) -> None:
    """ValueError for a model whose loss is not sum_k w_k mean r_k^2: another loss than MSE, or a regularized network."""
    losses = _compiled_losses(model)
    other = next((loss for loss in losses if loss is not load_deepxde().losses.mean_squared_error), None)
    if other is not None:
        raise ValueError(
            f"the model is compiled with the loss {getattr(other, '__name__', other)}, and here it is the mean of squares; "
            "compile it with loss='MSE', or give from_deepxde model.net in its place"
        )
    regularizer = getattr(model.net, "regularizer", None)
    if regularizer is not None:
        raise ValueError(
            f"the model's network has regularization {regularizer!r}, which is not taken over; set model.net.regularizer to "
            "None, or give from_deepxde model.net in the model's place"
        )


def _compiled_losses(model: Any) -> list[Any]:
    """The loss functions that `compile` was given; none before it. DeepXDE holds them in its closures alone."""
    if model.opt_name is None:
        return []
    outputs_losses = inspect.getclosurevars(model.outputs_losses_train).nonlocals["outputs_losses"]
    found = inspect.getclosurevars(outputs_losses).nonlocals["loss_fn"]
    return list(found) if isinstance(found, (list, tuple)) else [found]


def outputs_of(network: nn.Module, data: Any) -> int:
    """How many outputs the network has at the data's points. ValueError where it does not run on them."""
    like = next(iter(network.state_dict().values()))
    points = torch.as_tensor(data.train_x[:2]).to(like)
    try:
        with torch.no_grad():
            found = network(points)
    except Exception as error:
        raise ValueError(
            f"the network does not run on the data's points, which have {points.shape[1]} coordinates: {sentence(error)}"
        ) from error
    return found.shape[-1]
