"""Plain LoRA: the factors follow their own gradients."""

from dataclasses import dataclass

import torch

from pinn_lora.lifts import Lift, Mass
from pinn_lora.ranges import POSITIVE, check_ranges


@dataclass(frozen=True)
class ChainRule(Lift):
    """dB = -ratio g_B, dA = -g_A: gradient flow of the factors; ratio = 1 is LoRA, about 16 is LoRA+.

    M = diag(I / ratio, I). Source: Hu et al., LoRA, 2021 (arXiv 2106.09685); Hayou, Ghosh & Yu, LoRA+, 2024 (arXiv
    2402.12354) for the ratio. The product step scales with s^2.
    """

    full_units = False
    conserves = "B^T B / ratio - A A^T"
    cost = ""

    ratio: float = 1.0

    def __post_init__(self):
        check_ranges(self, ratio=POSITIVE)

    @property
    def mass_name(self):
        return "identity" if self.ratio == 1.0 else f"identity / {self.ratio:g} on B"

    def velocity(self, pair, g_B, g_A, metric):
        return -self.ratio * g_B, -g_A

    def mass(self, pair, metric):
        parts = [pair.B.new_full((pair.B.numel(),), 1.0 / self.ratio), pair.A.new_ones(pair.A.numel())]
        return Mass(torch.diag(torch.cat(parts)), keeps_gauge=self.ratio == 1.0)
