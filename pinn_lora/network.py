"""The multilayer perceptron and its input features, on tensors and, with a hand-derived adjoint, on jets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pinn_lora.activations import ACTIVATIONS
from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import (
    Indices,
    Jet,
    compose,
    compose_adjoint,
    cos,
    max_order,
    sin,
)


class Layer(NamedTuple):
    """What a linear layer does, frozen part and adapter together: y = x weight^T + bias."""

    weight: Tensor
    bias: Tensor


class Tape(NamedTuple):
    """What the adjoint of one hidden layer needs: pre-activation jets (S, N, m), without the bias in their value, and
    phi, phi', ... at that value."""

    z: Tensor
    phi: list[Tensor]


class MLP(nn.Module):
    """`depth` hidden layers of `width` units; Glorot-normal weights, zero biases, from `seed` alone.

    Inputs are scaled to [-1, 1] by the domain's bounds; a coordinate named in `periodic` is replaced by cos and sin of
    2 pi (x - lower) / period. float64 by default.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        fields: int = 1,
        width: int = 24,
        depth: int = 3,
        periodic: Sequence[str] = (),
        activation: str = "tanh",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"a network needs width and depth of at least 1, not {width} and {depth}")
        self.domain, self.periodic = domain, tuple(periodic)
        self.activation = choose(activation, list(ACTIVATIONS), what="activation")
        for name in self.periodic:
            domain.number(name)
        sizes = [domain.dimension + len(self.periodic), *[width] * depth, fields]
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        for n, m in itertools.pairwise(sizes):
            layer = nn.Linear(n, m, device="meta", dtype=dtype).to_empty(device="cpu")
            with torch.no_grad():
                draw = torch.randn(m, n, generator=generator, dtype=torch.float64)
                layer.weight.copy_(math.sqrt(2.0 / (n + m)) * draw)
                layer.bias.zero_()
            self.layers.append(layer)

    @property
    def width(self) -> int:
        return self.layers[0].out_features  # type: ignore[return-value]

    @property
    def depth(self) -> int:
        return len(self.layers) - 1

    def describe(self) -> dict:
        """The arguments, but for seed and dtype, that build a network of this shape on the same domain."""
        return {
            "fields": self.layers[-1].out_features,
            "width": self.width,
            "depth": self.depth,
            "periodic": list(self.periodic),
            "activation": self.activation,
        }

    def features(self, coordinates: Sequence) -> list:
        """The network's inputs from the coordinates, all tensors or all jets."""
        found = []
        bounds = zip(self.domain.names, self.domain.lower, self.domain.upper, coordinates, strict=True)
        for name, lower, upper, x in bounds:
            if name in self.periodic:
                angle = (x - lower) * (2.0 * math.pi / (upper - lower))
                found += [cos(angle), sin(angle)]
            else:
                found.append((x - 0.5 * (lower + upper)) * (2.0 / (upper - lower)))
        return found

    def forward(self, points: Tensor) -> Tensor:
        """Outputs (N, fields) at points (N, d)."""
        h = torch.stack(self.features(points.unbind(-1)), dim=-1)
        for layer in self.layers[:-1]:
            h = ACTIVATIONS[self.activation].function(layer(h))
        return self.layers[-1](h)

    def feature_jets(self, coordinates: Sequence[Jet]) -> Tensor:
        """The inputs' jets (S, N, n): they depend on no parameter, so they are made once for a set of points."""
        rows = [jet.data for jet in self.features(coordinates)]
        if units_first(rows[0].dtype):
            return torch.stack(rows).permute(1, 2, 0)
        return torch.stack(rows, dim=-1)

    def effective_layers(self, parameters: dict[str, Tensor]) -> list[Layer]:
        """Every layer's weight and bias with `parameters` (by qualified name) in place of the trained ones."""
        found = []
        for i, layer in enumerate(self.layers):
            own = {name: parameters.get(f"layers.{i}.{name}", value) for name, value in _tensors(layer)}
            effective = getattr(layer, "effective_weight", None)
            weight = effective(own["B"], own["A"]) if effective else own["weight"]
            found.append(Layer(weight, own["bias"]))
        return found


def _tensors(module: nn.Module):
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def units_first(dtype: torch.dtype) -> bool:
    """Whether jets (S, N, n) lie in memory as (n, S, N): in float64 the products with the small matrices of a layer run
    1.2 to 1.6 times faster so, in float32 a tenth slower."""
    return dtype == torch.float64


def as_matrix(h: Tensor) -> Tensor:
    """Jets (S, N, n) as a matrix (n, S N)."""
    return h.permute(2, 0, 1).reshape(h.shape[-1], -1) if units_first(h.dtype) else h.reshape(-1, h.shape[-1]).T


def linear_jets(h: Tensor, weight: Tensor) -> Tensor:
    """A linear layer without its bias on jets (S, N, n)."""
    product = torch.mul if h.shape[-1] == 1 else torch.matmul
    if units_first(h.dtype):
        return product(weight, as_matrix(h)).view(-1, *h.shape[:2]).permute(1, 2, 0)
    return product(h.reshape(-1, h.shape[-1]), weight.T).view(*h.shape[:2], -1)


def forward_jets(
    layers: Sequence[Layer], features: Tensor, indices: Indices, activation: str, *, pure: bool = False
) -> tuple[Tensor, list[Tensor], list[Tape]]:
    """Output jets (S, N, fields), every layer's input jets and the hidden layers' tape."""
    derivatives = ACTIVATIONS[activation].derivatives
    order = max_order(indices) + 1
    inputs, tapes, h = [features], [], features
    for layer in layers[:-1]:
        z = linear_jets(h, layer.weight)
        phi = derivatives(z[0] + layer.bias, order)  # the bias belongs to the value alone, which nothing else reads
        h = compose(phi, z, indices, pure=pure)
        tapes.append(Tape(z, phi))
        inputs.append(h)
    outputs = linear_jets(h, layers[-1].weight)
    return torch.cat([outputs[:1] + layers[-1].bias, outputs[1:]]), inputs, tapes


def adjoint_jets(
    layers: Sequence[Layer],
    tapes: Sequence[Tape],
    seed: Tensor,
    indices: Indices,
    lowest: int = 0,
    *,
    pure: bool = False,
) -> list[Tensor]:
    """The adjoints (S, N, m) of every layer's pre-activations, from `seed` (S, N, fields) down to layer `lowest`."""
    found = [seed]
    for i in range(len(layers) - 1, lowest, -1):
        back = linear_jets(seed, layers[i].weight.T)
        seed = compose_adjoint(tapes[i - 1].phi, tapes[i - 1].z, back, indices, pure=pure)
        found.append(seed)
    return found[::-1]
