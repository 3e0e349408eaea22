"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from dataclasses import dataclass

from pinn_lora.optimizers import Optimizer, TorchRun, baseline, every
from pinn_lora.ranges import AVERAGE, COUNT, check_ranges


@dataclass(frozen=True)
class SOAP(Optimizer):
    """pytorch-optimizer's SOAP on every factor or matrix, biases by its Adam; with cosine decay.

    The eigenbases are renewed every `every` steps. Its first step only measures. Needs the extra `baselines`. Source: Vyas
    et al., SOAP, 2024 (arXiv 2409.11321).
    """

    beta1: float = 0.95
    beta2: float = 0.95
    every: int = 10
    decay: bool = True

    def __post_init__(self):
        check_ranges(self, beta1=AVERAGE, beta2=AVERAGE, every=COUNT)

    @property
    def cost(self):
        bases = f"O(a^3 + b^3) every {self.every} steps"
        return f"{self.evaluates}, O(a b (a+b)) of each tensor a x b, {bases}"

    def start(self, blocks, theta, *, step_size, max_steps):
        def make(pairs, dense):
            options = {"betas": (self.beta1, self.beta2), "precondition_frequency": self.every, "weight_decay": 0.0}
            return [baseline("SOAP")(every(pairs, dense), lr=step_size, **options)]

        return TorchRun(blocks, theta, make, step_size=step_size, max_steps=max_steps, decay=self.decay)
