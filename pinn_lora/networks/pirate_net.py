"""PirateNet (Wang, Li, Chen & Perdikaris 2024): blocks with adaptive residual connections."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from pinn_lora.domain import Domain
from pinn_lora.factorised import FactorisedLinear
from pinn_lora.networks import Network
from pinn_lora.program import Wiring


class PirateNet(Network):
    """`depth` blocks of three layers, x <- alpha h + (1 - alpha) x. h is two layers of `width` units, each followed by the gate
    z u + (1 - z) v, and one of as many units as there are features; the encoders u and v of the features are the layers 0
    and 1. Every block's alpha is trained and begins at 0, so that the network begins linear in its Fourier features.
    """

    def __init__(self, domain: Domain, *, fourier: int = 12, **options: Any) -> None:
        super().__init__(domain, fourier=fourier, **options)

    def wire(self, wiring: Wiring) -> int:
        u, v = wiring.dense(0, self.width), wiring.dense(0, self.width)
        w, x, features = wiring.difference(u, v), 0, wiring.widths[0]
        for _ in range(self.depth):
            h = wiring.gate(wiring.dense(x, self.width), w, v)
            h = wiring.gate(wiring.dense(h, self.width), w, v)
            x = wiring.mix(wiring.dense(h, features), x)
        return x

    def fitted(self, points: Tensor, values: Tensor) -> PirateNet:
        """A copy whose last layer is the least-squares fit of known outputs (N, fields) at points (N, d): the published,
        physics-informed start, with the initial condition's values. Where a problem has an ansatz, the outputs are what it is
        given, not the solution. ValueError where the shapes do not fit.
        """
        network = copy.deepcopy(self)
        last: Any = network.layers[-1]
        if values.shape != (len(points), last.out_features):
            raise ValueError(f"values have shape {tuple(values.shape)}; give ({len(points)}, {last.out_features})")
        with torch.no_grad():
            h = network.registers(points.to(last.bias))[-2]
            H = torch.cat([h, torch.ones_like(h[:, :1])], dim=1).double()
            found = (torch.linalg.pinv(H) @ values.to(H)).T  # of least norm where h is deficient, on every device
            weight = (
                torch.exp(-last.s)[:, None] * found[:, :-1] if isinstance(last, FactorisedLinear) else found[:, :-1]
            )
            (last.V if isinstance(last, FactorisedLinear) else last.weight).copy_(weight)
            last.bias.copy_(found[:, -1])
        return network
