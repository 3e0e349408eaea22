"""A random start on the balanced manifold."""

import math
from dataclasses import dataclass

import torch

from pinn_lora.initializers import Initializer
from pinn_lora.ranges import POSITIVE, check_ranges


@dataclass(frozen=True)
class Balanced(Initializer):
    """B = c Q_B, A = c Q_A^T with random orthonormal bases, so that B^T B = A A^T = c^2 I; c^2 = `size` squared.

    size = 1/sqrt(3) gives A the norm that Kaiming's start gives it. B A != 0, and is subtracted from the layer. Source:
    ours, for the balanced manifold of Gao & Tan, ODELoRA, 2026 (arXiv 2602.07479).
    """

    size: float = 1.0 / math.sqrt(3.0)

    def __post_init__(self):
        check_ranges(self, size=POSITIVE)

    def factors(self, site):
        draw = lambda k: torch.randn(k, site.rank, generator=site.generator, dtype=torch.float64)  # noqa: E731
        bases = [torch.linalg.qr(draw(k)).Q for k in site.weight.shape]
        return self.size * bases[0], self.size * bases[1].T
