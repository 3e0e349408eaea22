"""AltLoRA: the factors in turn, each by its own nearest step, with momentum that follows the other's basis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinn_lora.flow import Flows
from pinn_lora.lifts import Pair, factored, relative_damping
from pinn_lora.lifts.block_diagonal import BlockDiagonal
from pinn_lora.lora import Blocks
from pinn_lora.metrics.identity import Identity
from pinn_lora.optimizers import Descent, Optimizer, require_factors
from pinn_lora.ranges import AVERAGE, NOT_NEGATIVE, check_ranges

SMALL = 1e-6  # of AltLoRA+'s denominator, as published


@dataclass(frozen=True)
class AltLoRA(Optimizer):
    """Even steps move A, odd ones B, by momentum M of the factor's own nearest step g~, aligned with the other's basis. For A

        g~ = s^-2 (S + lam I)^-1 g_A,  M' = beta (S + lam I)^-1 B^T B_old M + (1 - beta) g~,  A <- A - h M' / (1 - beta^t),

    for B alike with K and A, and M <- M'. t counts this factor's steps, B_old is B in the one before, and
    lam = eps tr(S + K) / (2 r) in both places. beta2 above 0 is AltLoRA+: V <- beta2 V + (1 - beta2) g~^2,
    element by element, without bias correction, A <- A - h M' / (1 - beta^t) / (V^1/2 + 1e-6), and what stays is the momentum
    without its alignment, M <- beta M + (1 - beta) g~. Dense tensors follow -g at every step. One gradient a step; with
    cosine decay. Source: Yu et al., AltLoRA, 2025, from its published code (altlora, altlora_plus), whose damping is 1e-3 I
    and whose weight decay is not here; the default beta is ours.
    """

    dense = "-g"
    needs_factors = True
    own = BlockDiagonal.cost

    beta: float = 0.9
    beta2: float = 0.0
    eps: float = 1e-4
    decay: bool = True

    def __post_init__(self):
        check_ranges(self, beta=AVERAGE, beta2=AVERAGE, eps=NOT_NEGATIVE)

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("altlora", blocks)
        return AltLoRARun(self, blocks, theta, step_size, max_steps)


# Of a factor: momentum, second moment, the other factor in its last step, and how many steps it has made.
Memory = tuple[Tensor, Tensor, Tensor, int]


class AltLoRARun(Descent):
    """A memory of every factor, from its first step on."""

    def __init__(self, settings: AltLoRA, blocks: Blocks, theta: Tensor, step_size: float, max_steps: int) -> None:
        super().__init__(step_size, max_steps, settings.decay)
        self.settings = settings
        self.flows = Flows(BlockDiagonal(settings.eps), Identity(), blocks, theta)
        self.memory: dict[tuple[str, str], Memory] = {}

    def direction(self, objective, theta):
        return self.flows.at(objective, theta).velocity(theta)

    def update(self, objective, theta, direction):
        new, side = theta + self.h * direction, "A" if self.taken % 2 == 0 else "B"
        for block in objective.blocks.pairs:
            (B, A), (dB, dA) = block.split(theta[block.slice]), block.split(direction[block.slice])
            shift = relative_damping(Pair(B, A, block.scale), self.settings.eps) * A.new_ones(len(A)).diag()
            if side == "A":
                A = A - self.h * self._momentum((block.name, side), B, shift, -dA)
            else:  # the same for the transposed product A^T B^T
                B = B - self.h * self._momentum((block.name, side), A.T, shift, -dB.T).T
            new[block.slice] = torch.cat([B.reshape(-1), A.reshape(-1)])
        return new

    def _momentum(self, key: tuple[str, str], basis: Tensor, shift: Tensor, near: Tensor) -> Tensor:
        """The direction of a factor (r, n) whose other factor is `basis` (m, r), from its nearest step `near`."""
        beta, beta2 = self.settings.beta, self.settings.beta2
        nothing = torch.zeros_like(near)
        M, V, old, steps = self.memory.get(key, (nothing, nothing, basis, 0))
        aligned = torch.linalg.lu_solve(*factored(basis.T @ basis + shift), basis.T @ old @ M)
        moved = (beta * aligned + (1.0 - beta) * near) / (1.0 - beta ** (steps + 1))
        V = beta2 * V + (1.0 - beta2) * near.square()
        kept = M if beta2 > 0 else aligned
        self.memory[key] = beta * kept + (1.0 - beta) * near, V, basis, steps + 1
        return moved / (V.sqrt() + SMALL) if beta2 > 0 else moved
