"""DeepXDE's networks as ours, and without the factors that they may carry."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

from pinn_lora.activations import ACTIVATIONS
from pinn_lora.dde.load import load_deepxde
from pinn_lora.domain import Domain
from pinn_lora.lora import LoRALinear, freeze, unfreeze
from pinn_lora.networks.mlp import MLP


def is_adapted(network: nn.Module) -> bool:
    return any(isinstance(module, LoRALinear) for module in network.modules())


def without_factors(network: nn.Module) -> nn.Module:
    """A copy of the network as it was before `adapt`: W0 in place of W0 + s B A, all weights parameters again."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoRALinear):
            layer = nn.Linear(module.in_features, module.out_features, device="meta", dtype=module.weight.dtype)
            layer.weight, layer.bias = nn.Parameter(module.weight), nn.Parameter(module.bias.detach())
            plain.set_submodule(name, layer)
    unfreeze(plain)
    return plain


def own_network(network: nn.Module, domain: Domain, *, like: nn.Module) -> nn.Module:
    """An MLP with the values of `network` where `like`, which is it or carries its factors, is one in DeepXDE's clothes: an
    FNN of one width with an activation of ours, no transforms, and no factors on its first layer. Else a copy."""
    activation = _activation(like)
    if activation is None:
        return copy.deepcopy(network)
    linears: list[Any] = list(cast(nn.ModuleList, network.linears))
    first, last = linears[0], linears[-1]
    found = MLP(
        domain,
        fields=last.out_features,
        width=first.out_features,
        depth=len(linears) - 1,
        activation=activation,
        dtype=first.weight.dtype,
    ).to(first.weight.device)
    for i, linear in enumerate(linears):
        if isinstance(linear, LoRALinear):
            found.layers[i] = copy.deepcopy(linear)
            continue
        weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
        if i == 0:  # x = middle + half z, z our inputs in [-1, 1]
            lower, upper = (
                torch.tensor(b, dtype=torch.float64, device=weight.device) for b in (domain.lower, domain.upper)
            )
            weight, bias = weight * (0.5 * (upper - lower)), bias + weight @ (0.5 * (upper + lower))
        layer = cast(nn.Linear, found.layers[i])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        if not list(linear.parameters()):
            freeze(layer)
    return found


def _activation(network: Any) -> str | None:
    """The activation's name where the network can be an MLP."""
    nets = load_deepxde().nn
    if type(network) is not nets.FNN or network._input_transform is not None or network._output_transform is not None:
        return None
    linears = list(network.linears)
    widths = {linear.out_features for linear in linears[:-1]}
    biases = all(linear.bias is not None for linear in linears)
    if len(widths) != 1 or isinstance(linears[0], LoRALinear) or not biases:
        return None
    for name, activation in ACTIVATIONS.items():
        if network.activation in (nets.activations.get(name), activation.function):
            return name
    return None
