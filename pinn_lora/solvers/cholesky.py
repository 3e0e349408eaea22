"""The normal matrix and its Cholesky factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pinn_lora import lower
from pinn_lora.least_squares import least_squares
from pinn_lora.lifts import Mass, gauge_directions
from pinn_lora.memory import room_gib
from pinn_lora.solvers import Solver

KEPT = 1 / 16  # GiB that J may take to be kept, so that J^T u need not be evaluated


@dataclass(frozen=True)
class Cholesky(Solver):
    """H = 2 J^T J (P, P), accumulated over chunks of points, and a Cholesky factor of M / h + H for every h. Of both only what
    is on and below the diagonal is made and read.

    `masses`: of every block, None stands for the identity. `gauges`: of every pair the directions N along which H is zero, so
    long that |N|^2 = tr H; N N^T is added there: d stays the same. Where rounding defeats the factor, which has the condition
    number of J squared, d is the least-squares solution by the rows of J, (M / 2 h)^1/2 and N^T / sqrt(2).
    `jacobian` gives J by rows in their order, `pullback` J^T u, both by evaluating it again where J is too large to be kept.
    `_factors`: the last h with its factor.

    Source: Bjoerck, Numerical Methods for Least Squares Problems, 1996, for both; masses and gauges are ours.
    """

    residuals: Tensor
    gradient: Tensor
    hessian: Tensor
    masses: tuple[tuple[slice, Mass | None], ...]
    gauges: tuple[tuple[slice, Tensor], ...]
    jacobian: Callable[[], Iterator[Tensor]]
    pullback: Callable[[Tensor], Tensor]
    _factors: dict[float, Tensor | None] = field(init=False, default_factory=dict, repr=False)

    cost = "1 Jacobian, H of it, 1 Cholesky factor (P x P)"

    @classmethod
    def at(cls, objective, theta, masses):
        kept = [] if cls._keeps(objective, theta.device) else None
        R, g, H = objective.normal(theta, kept)
        pairs, parts, gauges = {pair.place.start: pair for pair in masses.pairs}, [], []
        for block in objective.blocks.blocks:
            pair, place = pairs.get(block.start), block.slice
            mass = pair and pair.matrix()
            parts.append((place, mass))
            if pair and mass and mass.keeps_gauge:
                N, trace = gauge_directions(pair.pair), H[place, place].diagonal().sum()
                tiny = torch.finfo(N.dtype).tiny  # a pair of zeros has no such direction
                gauges.append((place, N * (trace / N.square().sum().clamp_min(tiny)).sqrt()))
        if kept:
            jacobian, pullback = lambda: (scale * J for J, scale in kept), lambda u: _pullback(kept, u)
        else:
            jacobian, pullback = lambda: objective.jacobian_rows(theta), lambda u: objective.pullback(theta, u)
        return cls(R, g, H, tuple(parts), tuple(gauges), jacobian, pullback)

    @classmethod
    def gib(cls, rows, unknowns):
        # by least squares: H; M and its root, were all unknowns one pair's; triangle and rows (1.5), a copy, the new triangle
        return 7 * 8 * unknowns**2 / 2**30

    @classmethod
    def _keeps(cls, objective, device):
        """Whether J is kept: it is small, and there is room for it beside everything else."""
        rows, unknowns = objective.rows, objective.size
        room, own = room_gib(device, objective.max_memory), 8 * rows * unknowns / 2**30
        return own <= KEPT and (room is None or own + cls.gib(rows, unknowns) + objective.chunk_gib <= room)

    @classmethod
    def operations(cls, rows, unknowns):
        return rows * unknowns**2 + unknowns**3 / 3

    def solve(self, h, tolerance=0.0, residuals=None):
        if h not in self._factors:
            self._factors.clear()
            self._factors[h] = self._factor(h)
        factor = self._factors[h]
        if factor is None:
            return self._solve_least_squares(h, self.residuals if residuals is None else residuals)
        right = self.gradient if residuals is None else 2.0 * self.pullback(residuals)
        return -lower.solve(factor, right)

    def _factor(self, h: float) -> Tensor | None:
        """Of the lifted M / h + H; None where rounding defeats it, or where it is not finite."""
        matrix = self.hessian.clone()
        for place, N in self.gauges:
            matrix[place, place].addmm_(N, N.T)
        for place, mass in self.masses:
            if mass is None:
                matrix.diagonal()[place] += 1.0 / h
            else:
                matrix[place, place] += mass.matrix / h
        return lower.factor(matrix)

    def predicted(self, d):
        return float(-(self.gradient @ d) - 0.5 * lower.quadratic(self.hessian, d))

    def _solve_least_squares(self, h: float, R: Tensor) -> Tensor:
        masses = [mass.matrix for _, mass in self.masses if mass]
        if not all(part.isfinite().all() for part in (self.hessian.diagonal(), R, *masses)):  # eigh and QR would raise
            return torch.full_like(self.gradient, torch.nan)
        return least_squares(self._rows(h, R), self.gradient)

    def _rows(self, h: float, R: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows, each part with what d is to give there."""
        at = 0
        for J in self.jacobian():
            yield J, -R[at : (at := at + len(J))]
        for place, mass in self.masses:
            if mass is None:
                root = (2.0 * h) ** -0.5 * R.new_ones(place.stop - place.start).diag()
            else:
                values, vectors = torch.linalg.eigh(mass.matrix)
                root = vectors.mul_((values.clamp_min(0.0) / (2.0 * h)).sqrt()).T  # in place: one matrix less
            yield from self._widened(place, root)
        for place, N in self.gauges:
            yield from self._widened(place, N.T / 2.0**0.5)

    def _widened(self, place: slice, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (n, P) that are zero but for a block's place, some at a time, and zeros (n,)."""
        for part in rows.split(lower.BLOCK):
            wide = part.new_zeros(len(part), len(self.gradient))
            wide[:, place] = part
            yield wide, part.new_zeros(len(part))


def _pullback(parts: list[tuple[Tensor, float]], u: Tensor) -> Tensor:
    """J^T u of parts of J, each with its factor."""
    found, at = u.new_zeros(parts[0][0].shape[1]), 0
    for J, scale in parts:
        found.addmv_(J.T, u[at : (at := at + len(J))], alpha=scale)
    return found
