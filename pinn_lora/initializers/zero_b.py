"""The standard start of LoRA."""

import math
from dataclasses import dataclass

import torch

from pinn_lora.initializers import Initializer


@dataclass(frozen=True)
class ZeroB(Initializer):
    """B = 0, A uniform in +-1/sqrt(n) (Kaiming): the standard start; never balanced.

    Source: Hu et al., LoRA, 2021 (arXiv 2106.09685).
    """

    def factors(self, site):
        m, n = site.weight.shape
        A = (2.0 * torch.rand(site.rank, n, generator=site.generator, dtype=torch.float64) - 1.0) / math.sqrt(n)
        return torch.zeros(m, site.rank, dtype=torch.float64), A
