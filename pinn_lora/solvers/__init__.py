"""Solvers: how the linear system of an implicit step is solved. Every file is one solver.

At one theta a solver has the residuals R (N,) and, in a form of its own, their Jacobian J (N, P), and gives for any h > 0

    (M / h + 2 J^T J) d = -g,   g = 2 J^T R.

A refused step asks again for a smaller h: what depends on theta alone is made once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from torch import Tensor, cat, contiguous_format

from pinn_lora.lifts import Lift, Mass, Pair
from pinn_lora.metrics import Weights
from pinn_lora.objective import Objective


class PairMass(NamedTuple):
    """A pair in float64, where it lies in theta, and what its mass is made of."""

    place: slice
    pair: Pair
    lift: Lift
    metric: Weights

    def matrix(self) -> Mass:
        return self.lift.mass(self.pair, self.metric)


@dataclass(frozen=True)
class Masses:
    """M of all blocks: of a pair its lift's, of everything else the identity."""

    pairs: tuple[PairMass, ...]

    @cached_property
    def _velocities(self) -> list[tuple[PairMass, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]]:
        return [(found, found.lift.velocity_at(found.pair, found.metric)) for found in self.pairs]

    def inverse(self, rows: Tensor) -> Tensor:
        """M^-1 on every row of (..., P), by the lift's closed form: minus the velocity for the row as gradient. Like gradients,
        the rows must have B^T g_B = g_A A^T in every pair, as those of J and all their combinations do."""
        if not self.pairs:
            return rows
        out = rows.clone(memory_format=contiguous_format)  # else a product copies what it reads, row by row
        for (place, pair, _, _), velocity in self._velocities:
            g_B, g_A = out[..., place].split([pair.B.numel(), pair.A.numel()], -1)
            dB, dA = velocity(g_B.unflatten(-1, pair.B.shape), g_A.unflatten(-1, pair.A.shape))
            out[..., place] = cat([dB.flatten(-2), dA.flatten(-2)], -1).neg_()
        return out


class Solver(ABC):
    """The system at one theta, in float64, with `residuals` R (N,) and `gradient` g (P,). `cost`: what making one evaluates."""

    residuals: Tensor
    gradient: Tensor
    cost: ClassVar[str]

    @cached_property
    def value(self) -> float:
        """f = |R|^2."""
        return float(self.residuals @ self.residuals)

    @classmethod
    @abstractmethod
    def at(cls, objective: Objective, theta: Tensor, masses: Masses) -> Solver:
        """The system of an objective at theta."""

    @classmethod
    @abstractmethod
    def gib(cls, rows: int, unknowns: int) -> float:
        """The most memory it holds at once, for N residuals and P unknowns."""

    @classmethod
    @abstractmethod
    def operations(cls, rows: int, unknowns: int) -> float:
        """Floating-point operations of the first step at a theta, beside the Jacobian's."""

    @abstractmethod
    def solve(self, h: float, tolerance: float, residuals: Tensor | None = None) -> Tensor:
        """d (P,), or the same with other `residuals` in place of R; an iteration stops where what is left of the right-hand
        side is `tolerance` of it."""

    @abstractmethod
    def predicted(self, d: Tensor) -> float:
        """The decrease of f that the Gauss-Newton model expects of d, whether it solves the system or not:
        -g.d - |J d|^2."""
