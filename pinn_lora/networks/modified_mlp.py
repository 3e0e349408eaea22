"""The modified MLP of Wang, Teng & Perdikaris (2021)."""

from __future__ import annotations

from pinn_lora.networks import Network
from pinn_lora.program import Wiring


class ModifiedMLP(Network):
    """`depth` hidden layers of `width` units, each followed by a gate h <- z u + (1 - z) v, where z is what the layer made
    and u and v are two encoders of the features, the layers 0 and 1."""

    def wire(self, wiring: Wiring) -> int:
        u, v = wiring.dense(0, self.width), wiring.dense(0, self.width)
        w, h = wiring.difference(u, v), 0
        for _ in range(self.depth):
            h = wiring.gate(wiring.dense(h, self.width), w, v)
        return h
