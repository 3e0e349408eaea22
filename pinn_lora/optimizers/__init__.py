"""Whole optimizers: what keeps history in the coordinates of theta, or is no flow at all. Every file is one optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pinn_lora.integrators import Step
from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective


class Run(Protocol):
    """An optimizer or a method under way."""

    h: float

    def step(self, objective: Objective, theta: Tensor) -> Step:
        """One step at the objective's points."""
        ...


class Optimizer(ABC):
    """A frozen dataclass of settings; `start` makes the run that keeps the state."""

    implicit: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    @abstractmethod
    def start(self, blocks: Blocks, theta: Tensor, *, step_size: float, max_steps: int) -> Run:
        """A run of at most `max_steps` steps from theta, first step size `step_size`."""


class Closure:
    """The loss and gradient of an objective as a torch optimizer asks for them; an evaluation at the same theta is kept."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        self.parameter = parameter
        self._last: tuple[Objective, Tensor, float, Tensor] | None = None

    def bind(self, objective: Objective) -> Callable[[], float]:
        def evaluate() -> float:
            theta = self.parameter.detach()
            if self._last is None or self._last[0] is not objective or not torch.equal(self._last[1], theta):
                value, g = objective.gradient(theta)
                self._last = objective, theta.clone(), value, g
            self.parameter.grad = self._last[3].clone()
            return self._last[2]

        return evaluate
