"""PirateNet (Wang, Li, Chen & Perdikaris 2024): blocks with adaptive residual connections."""

from __future__ import annotations

from typing import Any

from pinn_lora.domain import Domain
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
