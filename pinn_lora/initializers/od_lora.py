"""Factors beside the orthonormal bases of their own subspaces, as OD-LoRA keeps them."""

import math
from dataclasses import dataclass

import torch

from pinn_lora.initializers import Initializer
from pinn_lora.ranges import POSITIVE, check_ranges


@dataclass(frozen=True)
class ODLoRA(Initializer):
    """B' = [Q_B, c Q_B] (m, 2r), A' = [c Q_A^T; Q_A^T] (2r, n), Q_B and Q_A random and orthonormal, c = `size`.

    The halves Q_B and Q_A^T are the bases of the other two, B = c Q_B and A = c Q_A^T, which are balanced's: so OD-LoRA's
    first bases are those that are there, and its first step moves W by O(h). B' A' = 2 c Q_B Q_A^T is subtracted from the
    layer. ValueError for an odd rank of the adapter. Source: ours, for OD-LoRA 2025 (OpenReview Icte1N6WQK), reconstructed.
    """

    rank_factor = 2

    size: float = 1.0 / math.sqrt(3.0)

    def __post_init__(self):
        check_ranges(self, size=POSITIVE)

    def factors(self, site):
        if site.rank % 2:
            raise ValueError(
                f"the start od_lora sets halves beside each other, so its rank must be even; it is {site.rank}"
            )
        draw = lambda k: torch.randn(k, site.rank // 2, generator=site.generator, dtype=torch.float64)  # noqa: E731
        Q_B, Q_A = (torch.linalg.qr(draw(k)).Q for k in site.weight.shape)
        return torch.cat([Q_B, self.size * Q_B], 1), torch.cat([self.size * Q_A.T, Q_A.T])
