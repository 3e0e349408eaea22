"""The normal matrix and its Cholesky factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pinn_lora.lifts import Mass, gauge_directions
from pinn_lora.solvers import Solver


@dataclass(frozen=True)
class Cholesky(Solver):
    """H = 2 J^T J (P, P), accumulated over chunks of points, and a Cholesky factor of M / h + H for every h.

    `masses`: of every block, None stands for the identity. Every pair's gauge directions N, along which H is zero, are lifted
    by c N N^T, c = tr H / |N|^2: d stays the same. `jacobian` gives (R, J), for least squares with [sqrt(2) J; (M / h)^1/2]
    where rounding defeats the factor, and `pullback` J^T u. `_factors`: the last h with its factor.
    """

    residuals: Tensor
    gradient: Tensor
    hessian: Tensor
    masses: tuple[tuple[slice, Mass | None], ...]
    gauges: tuple[tuple[slice, Tensor], ...]
    jacobian: Callable[[], tuple[Tensor, Tensor]]
    pullback: Callable[[Tensor], Tensor]
    _factors: dict[float, Tensor | None] = field(init=False, default_factory=dict, repr=False)

    cost = "1 Jacobian, H of it, 1 Cholesky factor (P x P)"

    @classmethod
    def at(cls, objective, theta, masses):
        R, g, H = objective.normal(theta)
        pairs, parts, gauges = {pair.place.start: pair for pair in masses.pairs}, [], []
        for block in objective.blocks.blocks:
            pair = pairs.get(block.start)
            mass = pair and pair.matrix()
            parts.append((block.slice, mass))
            if pair and mass and mass.keeps_gauge:
                gauges.append((block.slice, gauge_directions(pair.pair)))
        jacobian, pullback = lambda: objective.jacobian(theta), lambda u: objective.pullback(theta, u)
        return cls(R, g, H, tuple(parts), tuple(gauges), jacobian, pullback)

    @classmethod
    def gib(cls, rows, unknowns):
        return 3 * 8 * unknowns**2 / 2**30  # H, a shifted copy, its factor

    @classmethod
    def operations(cls, rows, unknowns):
        return rows * unknowns**2 + unknowns**3 / 3

    def solve(self, h, tolerance=0.0, residuals=None):
        right = self.gradient if residuals is None else 2.0 * self.pullback(residuals)
        if not (self.hessian.diagonal().isfinite().all() and right.isfinite().all()):
            return torch.full_like(right, torch.nan)
        if h not in self._factors:
            self._factors.clear()
            self._factors[h] = self._factor(h)
        factor = self._factors[h]
        if factor is None:
            return self._solve_least_squares(h, self.residuals if residuals is None else residuals)
        return -torch.cholesky_solve(right[:, None], factor)[:, 0]

    def _factor(self, h: float) -> Tensor | None:
        """Of the lifted M / h + H; None where rounding defeats it."""
        matrix = self.hessian.clone()
        for place, N in self.gauges:
            norm = float(N.square().sum())
            if norm > 0:
                trace = float(self.hessian[place, place].diagonal().sum())
                matrix[place, place].addmm_(N, N.T, alpha=trace / norm)
        for place, mass in self.masses:
            if mass is None:
                matrix.diagonal()[place] += 1.0 / h
            else:
                matrix[place, place] += mass.matrix / h
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if failed else factor

    def predicted(self, d):
        return float(-(self.gradient @ d) - 0.5 * (d @ (self.hessian @ d)))

    def _solve_least_squares(self, h: float, R: Tensor) -> Tensor:
        J = self.jacobian()[1]
        size = len(self.gradient)
        root = torch.zeros(size, size, dtype=J.dtype, device=J.device)
        for place, mass in self.masses:
            if mass is None:
                root.diagonal()[place] = h**-0.5
            else:
                values, vectors = torch.linalg.eigh(mass.matrix)
                root[place, place] = (values.clamp_min(0.0) / h).sqrt()[:, None] * vectors.T
        target = torch.cat([-(2.0**0.5) * R, R.new_zeros(size)])
        return torch.linalg.lstsq(torch.cat([2.0**0.5 * J, root]), target[:, None], driver="gelsd").solution[:, 0]
