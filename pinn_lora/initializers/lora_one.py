"""The best rank-r part of one full gradient step."""

from dataclasses import dataclass

import torch

from pinn_lora.initializers import Initializer, top_singular
from pinn_lora.ranges import POSITIVE, check_ranges


@dataclass(frozen=True)
class LoRAOne(Initializer):
    """B A = [-G]_r / (gamma sigma_1), B = U (sigma / (gamma sigma_1))^1/2, A = (...)^1/2 V^T of -G; balanced.

    Source: Zhang, Liu & Chen, LoRA-One, 2025 (arXiv 2502.01235), with its published code's gamma = 128. Published, the
    start is kept as a first step; here, as every start, it is subtracted, and the network begins as the base. A zero gradient
    gives B = 0, and A rows of equal length.
    """

    needs_probe = True

    gamma: float = 128.0

    def __post_init__(self):
        check_ranges(self, gamma=POSITIVE)

    def factors(self, site):
        U, sigma, V = top_singular(-site.gradient, site.rank)
        share = sigma / sigma[0].clamp_min(1e-300)
        root, length = (share / self.gamma).sqrt(), torch.where(sigma[0] > 0, share, 1.0).div(self.gamma).sqrt()
        return U * root, length[:, None] * V
