"""The kernel of the residuals and its Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pinn_lora import lower
from pinn_lora.solvers import Masses, Solver


@dataclass(frozen=True)
class Kernel(Solver):
    """d = -M^-1 J^T y with (K + I / (2 h)) y = R and K = J M^-1 J^T (N, N): the same d as the normal matrix's, by Woodbury.

    For fewer residuals than unknowns: all weights of a wide network at few points. M^-1 is the lift's closed form. A new h is
    a new shift and a new factor of K. Nothing here is new for all weights (M = I): it is energy natural gradient's Woodbury
    form, and Levenberg-Marquardt's dual. K has no gauge directions; where rounding defeats the factor, its eigenvalues are
    clamped at zero. `kernel`: K on and below the diagonal, above it anything. `_factors`: the last h with its factor. Source:
    Guzman-Cordero et al. 2025 (arXiv 2505.12149); masses of lifts in it are ours.
    """

    residuals: Tensor
    gradient: Tensor
    jacobian: Tensor
    kernel: Tensor
    masses: Masses
    _factors: dict[float, Tensor | None] = field(init=False, default_factory=dict, repr=False)

    cost = "1 Jacobian, J M^-1 J^T of it, 1 Cholesky factor (N x N)"

    @classmethod
    def at(cls, objective, theta, masses):
        R, J = objective.jacobian(theta)
        K = J.new_empty(len(R), len(R))
        for start in range(0, len(R), lower.BLOCK):  # nothing reads what is above: no factor, nor eigh
            end = start + lower.BLOCK
            torch.mm(masses.inverse(J[start:end]), J[:end].T, out=K[start:end, :end])
        return cls(R, 2.0 * (J.T @ R), J, K, masses)

    @classmethod
    def gib(cls, rows, unknowns):
        # by eigenvalues: J; M^-1 of a block; K, two copies and what eigh works in
        return 8 * (rows * unknowns + 4 * lower.BLOCK * unknowns + 5 * rows**2) / 2**30

    @classmethod
    def operations(cls, rows, unknowns):
        return 1.1 * (rows**2 * unknowns + rows**3 / 3)  # M^-1 of J takes about a tenth more where both are many

    def solve(self, h, tolerance=0.0, residuals=None):
        right = self.residuals if residuals is None else residuals
        if h not in self._factors:
            self._factors.clear()
            matrix = self.kernel.clone()
            matrix.diagonal().add_(0.5 / h)
            self._factors[h] = lower.factor(matrix)
        factor = self._factors[h]
        if factor is None:
            if not (self.kernel.diagonal().isfinite().all() and right.isfinite().all()):  # eigh would raise
                return torch.full_like(self.gradient, torch.nan)
            values, vectors = torch.linalg.eigh(self.kernel)
            y = vectors @ ((vectors.T @ right) / (values.clamp_min(0.0) + 0.5 / h))
        else:
            y = lower.solve(factor, right)
        return -self.masses.inverse(self.jacobian.T @ y)

    def predicted(self, d):
        return float(-(self.gradient @ d) - (self.jacobian @ d).square().sum())
