"""BUG: a low-rank integrator for the product itself, robust to small singular values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinn_lora.flow import WeightGradient
from pinn_lora.lora import truncate
from pinn_lora.optimizers import Descent, Optimizer, require_factors
from pinn_lora.ranges import Range, check_ranges


@dataclass(frozen=True)
class BUG(Optimizer):
    """The rank-adaptive basis-update and Galerkin integrator on dX/dt = -G(X), X = s B A = U S V^T, by explicit Euler.

    K = U S - h G V, L = V S^T - h G^T U; bases U^ of [U, K] and V^ of [V, L]; S^ = U^^T (X - h G) V^; then its best
    approximation by singular values, of rank at most the adapter's, with those left out whose squares add up to under
    `tolerance`^2 of all. Never divides by a singular value. Needs G (m, n) itself. Dense tensors follow -g; kept balanced.
    Source: Ceruti, Kusch & Lubich 2022 (arXiv 2104.05247).
    """

    needs_factors = True
    dense = "-g"
    conserves = "B^T B = A A^T after every step"
    own = "G itself, O(m n r)"

    tolerance: float = 0.0
    decay: bool = False

    def __post_init__(self):
        check_ranges(self, tolerance=Range(ge=0, lt=1))

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("bug", blocks)
        return BUGRun(self, step_size, max_steps)


class BUGRun(Descent):
    """Each step is one gradient in the layers' own weights."""

    def __init__(self, settings: BUG, step_size: float, max_steps: int) -> None:
        super().__init__(step_size, max_steps, settings.decay)
        self.tolerance = settings.tolerance
        self.gradient: WeightGradient | None = None
        self.dense: dict[str, Tensor] = {}

    def direction(self, objective, theta):
        if self.gradient is None or self.gradient.objective is not objective:
            self.gradient = WeightGradient(objective)
        value, g, self.dense = self.gradient(theta)
        return value, g

    def update(self, objective, theta, direction):
        new = theta - self.h * direction
        for block in objective.blocks.pairs:
            B, A = block.split(theta[block.slice])
            factors = self._product(B, A, self.h / block.scale * self.dense[block.name])
            new[block.slice] = torch.cat([factor.reshape(-1) for factor in factors])
        return new

    def _product(self, B: Tensor, A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of B A - G; s B A moves by -h dL/dW, so B A by that over s."""
        (U, R), (V, T) = torch.linalg.qr(B), torch.linalg.qr(A.T)
        S = R @ T.T
        left = torch.linalg.qr(torch.cat([U, U @ S - G @ V], 1)).Q
        right = torch.linalg.qr(torch.cat([V, V @ S.T - G.T @ U], 1)).Q
        middle = (left.T @ U) @ S @ (V.T @ right) - left.T @ G @ right
        return truncate(left @ middle, right.T, len(A), self.tolerance)
