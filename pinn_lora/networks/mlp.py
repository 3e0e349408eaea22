"""The multilayer perceptron."""

from __future__ import annotations

from pinn_lora.networks import Network
from pinn_lora.program import Wiring


class MLP(Network):
    """`depth` hidden layers of `width` units, one after another."""

    def wire(self, wiring: Wiring) -> int:
        h = 0
        for _ in range(self.depth):
            h = wiring.dense(h, self.width)
        return h
