"""The linearly implicit Euler method: a Gauss-Newton step damped by the mass of the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pinn_lora import solvers
from pinn_lora.catalog import choose, find, names
from pinn_lora.integrators import Integrator, Step
from pinn_lora.ranges import NOT_NEGATIVE, Range, check_ranges
from pinn_lora.solvers import Solver

if TYPE_CHECKING:  # a flow is built from what lies below it; only its name is needed here
    from pinn_lora.flow import Flow

PROBE = 0.1  # of the step: how far off residuals are taken for their second derivative along it


@dataclass(frozen=True)
class RosenbrockEuler(Integrator):
    """(M / h + H) d = -g, y <- y + d, with H = 2 J^T J the Gauss-Newton matrix and M the mass of the lift.

    h -> 0 is explicit Euler on the same flow, h -> infinity Gauss-Newton, M = I Levenberg-Marquardt with damping 1/h.
    Adaptive: the ratio of actual to predicted decrease q(d) = -g.d - d.H d / 2 accepts the step above `accept`, widens h by
    `grow` above 3/4 and divides it by `shrink` below 1/4 and where q(d) < 0; a rejected step makes no Jacobian anew.
    solver: a file of `pinn_lora.solvers` by name ("cholesky": P x P; "kernel": N x N, for fewer residuals N than unknowns P;
    "cg": neither), or None for the one of fewest operations among those that fit into memory. tolerance: of an iterative
    one, see there; a step that is solved for inexactly is judged by its own predicted decrease.
    acceleration: the largest 2 |a| / |d| at which an adaptive step ends at theta + d + a / 2, a the same system's solution for
    R'', the residuals' second derivative along d by central differences: geodesic acceleration, at two residual evaluations and
    one product J^T u. Beyond, the step ends at theta + d. Transtrum & Sethna bend as far as |a| = 0.75 |d|, which
    is 1.5 here, and refuse a step beyond. 0 leaves it out.

    Source: Rosenbrock 1963, of one stage, with the Gauss-Newton matrix as Jacobian; at M = I Levenberg 1944 and Marquardt 1963;
    control by the ratio: Fletcher 1971, with factors of ours; the acceleration: Transtrum & Sethna 2012 (arXiv 1207.4999).
    """

    order = 1
    implicit = True
    control = ("accept", "grow", "shrink", "acceleration")

    adaptive: bool = True
    accept: float = 1e-4
    grow: float = 3.0
    shrink: float = 2.0
    solver: str | None = None
    tolerance: float = 0.1
    acceleration: float = 0.75

    def __post_init__(self):
        check_ranges(self, accept=NOT_NEGATIVE, grow=Range(ge=1), shrink=Range(gt=1), acceleration=NOT_NEGATIVE)
        check_ranges(self, tolerance=Range(gt=0, lt=1))
        if self.solver is not None:
            choose(self.solver, names(solvers), what="solver")

    @property
    def bends(self):
        return self.adaptive and self.acceleration > 0

    @property
    def cost(self):
        solver = find(solvers, Solver, self.solver or "cholesky")
        control = ", 3 residuals, 1 product J^T u" if self.acceleration else ", 1 residual"
        return solver.cost + (control if self.adaptive else "")

    def step(self, flow, theta, h):
        system = flow.system(theta, self.solver)
        d = system.solve(h, self.tolerance)
        trial = theta + d.to(theta)
        if not self.adaptive:
            return Step(trial, True, h, system.value)
        moves = (trial != theta).any()
        predicted = system.predicted(torch.where(moves, d, 0.0))  # both in one answer that a device is waited for
        if predicted == 0.0:  # d is lost in rounding, and a smaller step would be too
            return Step(theta, False, h, system.value, finished=True)
        if not predicted > 0.0:  # rounding made d, or it is not finite
            return Step(theta, False, h / self.shrink, system.value)
        if self.acceleration:
            trial = theta + (d + self._bend(flow, system, theta, d, h)).to(theta)
        actual = system.value - flow.value(trial)
        if not actual >= self.accept * predicted:  # also where the trial is not finite
            return Step(theta, False, h / self.shrink, system.value)
        ratio = actual / predicted
        factor = self.grow if ratio > 0.75 else 1.0 / self.shrink if ratio < 0.25 else 1.0
        return Step(trial, True, h * factor, system.value)

    def _bend(self, flow: Flow, system: Solver, theta: Tensor, d: Tensor, h: float) -> Tensor:
        """a / 2; zero where a is too long or not finite."""
        ahead, behind = (flow.residuals(theta + s * PROBE * d.to(theta)) for s in (1.0, -1.0))
        second = (ahead - 2.0 * system.residuals + behind) / PROBE**2
        a = system.solve(h, self.tolerance, second)
        bends = 2.0 * a.norm() <= self.acceleration * d.norm()
        return torch.where(bends, 0.5 * a, torch.zeros_like(d))
