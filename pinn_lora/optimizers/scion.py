"""Scion: steps along the minimiser of a linear function over a norm ball."""

from __future__ import annotations

from dataclasses import dataclass

from pinn_lora.optimizers import Optimizer, TorchRun, baseline, every
from pinn_lora.ranges import Range, check_ranges


@dataclass(frozen=True)
class Scion(Optimizer):
    """d <- (1 - a) d + a g, theta <- theta - h lmo(d): the spectral ball for factors and matrices, the Euclidean for biases.

    The step's length does not depend on the gradient's: with cosine decay. Source: Pethick et al., Scion, 2025 (arXiv
    2502.07529); the steps are pytorch-optimizer's, of the extra `baselines`.
    """

    own = "O(a b min(a, b)) of each tensor a x b"

    a: float = 0.1
    decay: bool = True

    def __post_init__(self):
        check_ranges(self, a=Range(gt=0, le=1))

    def start(self, blocks, theta, *, step_size, max_steps):
        def make(pairs, dense):
            return [baseline("SCION")(every(pairs, dense), lr=step_size, momentum=self.a)]

        return TorchRun(blocks, theta, make, step_size=step_size, max_steps=max_steps, decay=self.decay)
