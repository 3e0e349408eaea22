"""Integrators: how the ordinary differential equation of the factors is followed in time. Every file is one integrator.

An integrator sees a flow only: its value, its velocity, and, where it is implicit, its Gauss-Newton system and mass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:  # a flow is built from what lies below it; only its name is needed here
    from pinn_lora.flow import Flow


@dataclass(frozen=True)
class Step:
    """Where a step of size h ended; a rejected one stays where it was.

    `next_h` is the size to try next, `value` the loss where the step began, `finished` says that no further step can move,
    `error` is the estimate of one that has it, in units of its tolerance.
    """

    theta: Tensor
    accepted: bool
    next_h: float
    value: float
    finished: bool = False
    error: float | None = None


class Integrator(ABC):
    """One step of dy/dt = f(y). `order` is the declared order on a smooth flow; `cost` what a step evaluates. `control`: the
    options that do nothing at a fixed step size."""

    order: ClassVar[int]
    implicit: ClassVar[bool] = False
    control: ClassVar[tuple[str, ...]] = ()
    adaptive: bool = False

    @property
    def bends(self) -> bool:
        """Whether a step ends at its velocity's end and its acceleration's, not straight ahead."""
        return False

    @property
    def gradients(self) -> int:
        """How many an explicit step takes; of an adaptive method, one that is accepted after another."""
        return 1

    @property
    def cost(self) -> str:
        """What a step evaluates."""
        return "1 gradient" if self.gradients == 1 else f"{self.gradients} gradients"

    @abstractmethod
    def step(self, flow: Flow, theta: Tensor, h: float) -> Step:
        """From theta over a time h, at points and metric held fixed."""


@dataclass(frozen=True)
class Tableau:
    """Butcher's coefficients of an explicit method: row i of `a` makes stage i + 1 from the stages before, `b` the step."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


class RungeKutta(Integrator):
    """k_1 = f(y), k_i = f(y + h sum_j a_ij k_j), y <- y + h sum_i b_i k_i: a method is its tableau."""

    tableau: ClassVar[Tableau]

    @property
    def gradients(self) -> int:
        return len(self.tableau.b)

    def stages(self, flow: Flow, theta: Tensor, h: float) -> tuple[float, list[Tensor]]:
        """f(theta) and k_1, k_2 ..."""
        value, first = flow.velocity(theta)
        found = [first]
        for row in self.tableau.a:
            found.append(flow.velocity(theta + h * combine(row, found))[1])
        return value, found

    def step(self, flow: Flow, theta: Tensor, h: float) -> Step:
        value, stages = self.stages(flow, theta, h)
        return Step(theta + h * combine(self.tableau.b, stages), True, h, value)


def combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """sum_i weights_i k_i."""
    return torch.stack([weight * k for weight, k in zip(weights, stages, strict=True) if weight]).sum(0)
