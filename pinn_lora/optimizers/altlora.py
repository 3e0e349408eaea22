"""AltLoRA: the factors in turn, each by its own nearest step, with momentum that follows the other's basis."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pinn_lora.flow import Flows
from pinn_lora.lifts.block_diagonal import BlockDiagonal
from pinn_lora.metrics.identity import Identity
from pinn_lora.optimizers import Descent, Optimizer, require_factors


@dataclass(frozen=True)
class AltLoRA(Optimizer):
    """Even steps move A, odd ones B, by momentum M of the factor's own nearest step g~:

        g~_A = s^-2 (S + lam I)^-1 g_A,  M_A <- beta (S + lam I)^-1 B^T B_old M_A + (1 - beta) g~_A,  A <- A - h M_A,

    and B alike with K and A. B_old is B when M_A was last renewed. lam = eps tr(S + K) / (2 r). beta2 above 0 divides M by the
    root of a moving average of g~ squared, element by element (AltLoRA+). Dense tensors follow -g at every step. One gradient
    a step; with cosine decay. Source: Yu et al., AltLoRA, 2025, algorithms 1 and 2.
    """

    needs_factors = True
    cost = "1 gradient, O((m+n) r^2)"

    beta: float = 0.9
    beta2: float = 0.0
    eps: float = 1e-4
    decay: bool = True

    def __post_init__(self):
        for name in ("beta", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"altlora: {name} is {getattr(self, name)}; it must be at least 0 and below 1")

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("altlora", blocks)
        return AltLoRARun(self, step_size, max_steps)


class AltLoRARun(Descent):
    """Of every factor: its momentum, its second moment, and the other factor when they were renewed."""

    def __init__(self, settings: AltLoRA, step_size: float, max_steps: int) -> None:
        super().__init__(step_size, max_steps, settings.decay)
        self.settings = settings
        self.flows = Flows(BlockDiagonal(settings.eps), Identity())
        self.memory: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def direction(self, objective, theta):
        return self.flows.at(objective, theta).velocity(theta)

    def update(self, objective, theta, direction):
        new, side = theta + self.h * direction, "A" if self.taken % 2 == 0 else "B"
        for block in objective.blocks.pairs:
            (B, A), (dB, dA) = block.split(theta[block.slice]), block.split(direction[block.slice])
            if side == "A":
                A = A - self.h * self._momentum(block.name, side, B, -dA)
            else:  # the same for the transposed product A^T B^T
                B = B - self.h * self._momentum(block.name, side, A.T, -dB.T).T
            new[block.slice] = torch.cat([B.reshape(-1), A.reshape(-1)])
        return new

    def _momentum(self, name: str, side: str, basis, gradient):
        """The direction of a factor (r, n) whose other factor is `basis` (m, r), from its nearest step `gradient`."""
        beta, beta2 = self.settings.beta, self.settings.beta2
        M, V, old = self.memory.get((name, side), (torch.zeros_like(gradient), torch.zeros_like(gradient), basis))
        S = basis.T @ basis
        lam = self.settings.eps * S.trace() / len(S)
        shift = S.new_ones(len(S)).diag() * lam.clamp_min(1e-300)
        M = beta * torch.linalg.solve(S + shift, basis.T @ old @ M) + (1.0 - beta) * gradient
        V = beta2 * V + (1.0 - beta2) * gradient.square()
        self.memory[name, side] = M, V, basis
        return M / (V.sqrt() + 1e-8) if beta2 > 0 else M
