"""The standard start with the factors' parts exchanged."""

import math
from dataclasses import dataclass

import torch

from pinn_lora.initializers import Initializer


@dataclass(frozen=True)
class ZeroA(Initializer):
    """A = 0, B uniform in +-1/sqrt(m): the first step moves A.

    Source: Malinovsky et al., RAC-LoRA, 2024 (arXiv 2410.08305).
    """

    def factors(self, site):
        m, n = site.weight.shape
        B = (2.0 * torch.rand(m, site.rank, generator=site.generator, dtype=torch.float64) - 1.0) / math.sqrt(m)
        return B, torch.zeros(site.rank, n, dtype=torch.float64)
