"""LoRA-Pro as published: Adam's moments of the whole step of W, brought back to the factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pinn_lora.flow import Flows
from pinn_lora.lifts import Pair
from pinn_lora.lifts.lora_pro import Gauge, LoRAPro
from pinn_lora.lora import Blocks, PairBlock
from pinn_lora.metrics import Weights
from pinn_lora.metrics.identity import Identity
from pinn_lora.optimizers import Descent, Optimizer, require_factors
from pinn_lora.ranges import AVERAGE, NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class LoRAProAdamW(Optimizer):
    """Of each layer, with the lift lora_pro, (g_B, g_A) -> (dB, dA), twice:

        G~ = -s (dB A + B dA)                       the gradient of W that the factors can follow, (m, n)
        m <- beta1 m + (1 - beta1) G~,  v <- beta2 v + (1 - beta2) G~^2,  D = m^ / (v^^1/2 + eps)
        (B, A) <- (B, A) + h lift(s D A^T, s B^T D)

    with bias-corrected m^ and v^, decoupled weight decay and cosine decay. The moments are m x n numbers a layer. Dense
    tensors follow Adam. Source: Wang et al., LoRA-Pro, ICLR 2025 (arXiv 2407.18242), algorithm 1.
    """

    needs_factors = True
    dense = "Adam"
    own = "O(m n r)"

    gauge: Gauge = "sylvester"
    damping: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: bool = True

    def __post_init__(self):
        check_ranges(
            self, damping=NOT_NEGATIVE, beta1=AVERAGE, beta2=AVERAGE, eps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE
        )
        LoRAPro(self.gauge)

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("lora_pro_adamw", blocks)
        return LoRAProAdamWRun(self, blocks, theta, step_size, max_steps)


class LoRAProAdamWRun(Descent):
    """The moments of every layer's step, and of every dense tensor's gradient."""

    def __init__(
        self, settings: LoRAProAdamW, blocks: Blocks, theta: torch.Tensor, step_size: float, max_steps: int
    ) -> None:
        super().__init__(step_size, max_steps, settings.decay)
        self.settings, self.lift = settings, LoRAPro(settings.gauge, settings.damping)
        self.flows = Flows(self.lift, Identity(), blocks, theta)
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def direction(self, objective, theta):
        return self.flows.at(objective, theta).velocity(theta)

    def update(self, objective, theta, direction):
        new = theta * (1.0 - self.h * self.settings.weight_decay)
        for block in objective.blocks.blocks:
            now, velocity = block.split(theta[block.slice]), block.split(direction[block.slice])
            if not isinstance(block, PairBlock):
                new[block.slice] -= self.h * self._adam(block.name, -velocity[0]).reshape(-1)
                continue
            (B, A), (dB, dA), s = now, velocity, block.scale
            D = self._adam(block.name, -s * (dB @ A + B @ dA))
            plain = Weights(B.new_ones(len(B)), A.new_ones(A.shape[1]))
            steps = self.lift.velocity(Pair(B, A, s), s * D @ A.T, s * B.T @ D, plain)
            new[block.slice] += self.h * torch.cat([step.reshape(-1) for step in steps])
        return new

    def _adam(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """Adam's direction for a gradient, whose moments are kept under `name`."""
        (beta1, beta2), t = (self.settings.beta1, self.settings.beta2), self.taken + 1
        m, v = self.moments.get(name, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
        m, v = m.lerp(gradient, 1.0 - beta1), v.lerp(gradient.square(), 1.0 - beta2)
        self.moments[name] = m, v
        return m / (1.0 - beta1**t) / ((v / (1.0 - beta2**t)).sqrt() + self.settings.eps)
