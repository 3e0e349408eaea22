"""Zero B with orthonormal rows in A."""

import math
from dataclasses import dataclass

import torch

from pinn_lora.initializers import Initializer
from pinn_lora.ranges import POSITIVE, check_ranges


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """B = 0, A A^T = `size`^2 I with random orthonormal rows: the first step sees all r directions alike.

    size = 1/sqrt(3) gives A the norm that Kaiming's start gives it. Source: Saxe, McClelland & Ganguli 2014 (arXiv
    1312.6120) for orthogonal weights; as LoRA's A, ours.
    """

    size: float = 1.0 / math.sqrt(3.0)

    def __post_init__(self):
        check_ranges(self, size=POSITIVE)

    def factors(self, site):
        m, n = site.weight.shape
        base = torch.linalg.qr(torch.randn(n, site.rank, generator=site.generator, dtype=torch.float64)).Q
        return torch.zeros(m, site.rank, dtype=torch.float64), self.size * base.T
