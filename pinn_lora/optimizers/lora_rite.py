"""LoRA-RITE: an adaptive step that does not depend on how the product is factored."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pinn_lora.optimizers import Optimizer, TorchRun, baseline, require_factors
from pinn_lora.ranges import AVERAGE, NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class LoRARITE(Optimizer):
    """pytorch-optimizer's LoRA-RITE on the factors, Adam with the same step size on all else.

    Each factor's gradient is taken without the other's magnitude, its moments travel with the other's rotating basis.
    Published, gradients are clipped and skipped at 1; here not (`clip`, `skip` at 0 are off): losses of PDEs have their own
    units. With cosine decay. Needs the extra `baselines`. Source: Yen et al., LoRA-RITE, ICLR 2025 (arXiv 2410.20625).
    """

    needs_factors = True
    dense = "Adam"
    conserves = "the step of B A does not depend on how it is factored"
    own = "O((m+n) r^2 + r^3)"

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    clip: float = 0.0
    skip: float = 0.0
    escape: bool = False
    decay: bool = True

    def __post_init__(self):
        check_ranges(self, beta1=AVERAGE, beta2=AVERAGE, eps=NOT_NEGATIVE, clip=NOT_NEGATIVE, skip=NOT_NEGATIVE)

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("lora_rite", blocks)

        def make(pairs, dense):
            options = {"betas": (self.beta1, self.beta2), "eps": self.eps, "apply_escape": self.escape}
            options |= {"clip_unmagnified_grad": self.clip, "update_skipping": self.skip}
            factors = [factor for B, A in pairs for factor in (A, B)]  # the order it expects
            found = [baseline("LoRARite")(factors, lr=step_size, **options)]
            return [*found, torch.optim.Adam(dense, lr=step_size)] if dense else found

        return TorchRun(blocks, theta, make, step_size=step_size, max_steps=max_steps, decay=self.decay)
