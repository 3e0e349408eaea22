"""BUG: a low-rank integrator for the product itself, robust to small singular values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinn_lora.flow import WeightGradient, cosine
from pinn_lora.integrators import Step
from pinn_lora.lora import truncate
from pinn_lora.optimizers import Optimizer, require_factors


@dataclass(frozen=True)
class BUG(Optimizer):
    """The rank-adaptive basis-update and Galerkin integrator on dX/dt = -G(X), X = B A = U S V^T, by explicit Euler.

    K = U S - h G V, L = V S^T - h G^T U; bases U^ of [U, K] and V^ of [V, L]; S^ = U^^T (X - h G) V^; then its best
    approximation by singular values, of rank at most the adapter's, with those left out whose squares add up to under
    `tolerance`^2 of all. Never divides by a singular value. Needs G (m, n) itself. Dense tensors follow -g; kept balanced.
    Source: Ceruti, Kusch & Lubich 2022.
    """

    needs_factors = True
    conserves = "B^T B = A A^T after every step"
    cost = "1 gradient in W, O(m n r)"

    tolerance: float = 0.0
    decay: bool = False

    def __post_init__(self):
        if not 0.0 <= self.tolerance < 1.0:
            raise ValueError(f"bug: tolerance is {self.tolerance}; it must be at least 0 and below 1")

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("bug", blocks)
        return BUGRun(self, step_size, max_steps)


class BUGRun:
    """Each step is one gradient in the layers' own weights."""

    def __init__(self, settings: BUG, step_size: float, max_steps: int) -> None:
        self.settings, self.h, self.first, self.max_steps, self.taken = settings, step_size, step_size, max_steps, 0
        self.gradient: WeightGradient | None = None

    def step(self, objective, theta):
        if self.gradient is None or self.gradient.objective is not objective:
            self.gradient = WeightGradient(objective)
        value, g, dense = self.gradient(theta)
        if not g.isfinite().all():
            return Step(torch.full_like(theta, torch.nan), True, self.h, value)
        new = theta - self.h * g
        for block in objective.blocks.pairs:
            B, A = block.split(theta[block.slice])
            factors = self._product(B, A, self.h / block.scale * dense[block.name])
            new[block.slice] = torch.cat([factor.reshape(-1) for factor in factors])
        self.taken += 1
        if self.settings.decay:
            self.h = cosine(self.first, self.taken, self.max_steps)
        return Step(new, not torch.equal(new, theta), self.h, value)

    def _product(self, B: Tensor, A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of X after a step -G; s B A moves by -h dL/dW, so B A by that over s."""
        (U, R), (V, T) = torch.linalg.qr(B), torch.linalg.qr(A.T)
        S = R @ T.T
        left = torch.linalg.qr(torch.cat([U, U @ S - G @ V], 1)).Q
        right = torch.linalg.qr(torch.cat([V, V @ S.T - G.T @ U], 1)).Q
        middle = (left.T @ U) @ S @ (V.T @ right) - left.T @ G @ right
        return truncate(left @ middle, right.T, len(A), self.settings.tolerance)
