"""Whole optimizers: what keeps history in the coordinates of theta, or is no flow at all. Every file is one optimizer; one
that follows a flow is a `Method`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from pinn_lora.flow import Flows, cosine
from pinn_lora.integrators import Step
from pinn_lora.lifts import Lift
from pinn_lora.lifts.chain_rule import ChainRule
from pinn_lora.lora import Blocks
from pinn_lora.metrics import Metric
from pinn_lora.metrics.identity import Identity
from pinn_lora.objective import Objective


class Run(Protocol):
    """An optimizer under way."""

    h: float

    def step(self, objective: Objective, theta: Tensor) -> Step:
        """One step at the objective's points."""
        ...


class Resumable:
    """A run that can be saved. Its state are its attributes that are numbers, texts, tensors, or lists, tuples and dicts of
    these; a run that keeps anything else from step to step adds it to both methods."""

    def state(self) -> dict[str, Any]:
        """All that the next steps ask for, but for the settings, theta and the objective."""
        return {name: value for name, value in vars(self).items() if _plain(value)}

    def restore(self, state: dict[str, Any], objective: Objective | None, theta: Tensor) -> None:
        """Goes on from such a state at theta; `objective` stands for the one of its last step, None where there was none."""
        vars(self).update({name: state[name] for name, value in vars(self).items() if _plain(value) and name in state})


def _plain(value: Any) -> bool:
    if type(value) in (list, tuple, dict):
        return all(map(_plain, value.values() if isinstance(value, dict) else value))
    return value is None or type(value) in (bool, int, float, str, Tensor)


class Optimizer(ABC):
    """A frozen dataclass of settings; `start` makes the run that keeps the state.

    `implicit`: a step solves a system. `adaptive`: it chooses its step sizes itself, after the first. `needs_factors`: it
    works on pairs (B, A) alone, and a network without any is refused. `rank_factor`: how many times the rank its adapters
    have, where a part of them is frozen. `dense`: the rule of tensors beside the factors where it is not the factors' own:
    gradient descent or torch's Adam, with the same step size. `initializer`: its start where none is given. `conserves`: what
    a step keeps. `evaluates` and `own`: what it evaluates at all points, and its own work.
    """

    implicit: bool = False
    adaptive: bool = False
    needs_factors: ClassVar[bool] = False
    rank_factor: ClassVar[int] = 1
    dense: ClassVar[Literal["", "-g", "Adam"]] = ""
    initializer: ClassVar[str] = "zero_b"
    conserves: ClassVar[str] = ""
    evaluates: ClassVar[str] = "1 gradient"
    own: ClassVar[str] = ""

    @property
    def cost(self) -> str:
        """What a step takes."""
        return f"{self.evaluates}, {self.own}" if self.own else self.evaluates

    def gradients(self, layers: int) -> float | None:
        """How many gradients a step takes on average, where theta lies in so many layers."""
        return 1.0

    @abstractmethod
    def start(self, blocks: Blocks, theta: Tensor, *, step_size: float, max_steps: int) -> Run:
        """A run of at most `max_steps` steps from theta, first step size `step_size`."""


class Descent(Resumable, ABC):
    """A run of one direction a step, with a step size that falls along a half cosine where `decay` is asked for."""

    def __init__(self, step_size: float, max_steps: int, decay: bool) -> None:
        self.h = self.first = step_size
        self.max_steps, self.decay, self.taken = max_steps, decay, 0

    @abstractmethod
    def direction(self, objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
        """The loss and the vector (P,) that `update` goes by: a velocity or a gradient."""

    @abstractmethod
    def update(self, objective: Objective, theta: Tensor, direction: Tensor) -> Tensor:
        """theta after a step of size h."""

    def step(self, objective: Objective, theta: Tensor) -> Step:
        value, direction = self.direction(objective, theta)
        if not direction.isfinite().all():  # a run that diverges is recorded, not an error of some eigenvalue routine
            return Step(torch.full_like(theta, torch.nan), True, self.h, value)
        new = self.update(objective, theta, direction)
        self.taken += 1
        if self.decay:
            self.h = cosine(self.first, self.taken, self.max_steps)
        return Step(new, not torch.equal(new, theta), self.h, value)


Make = Callable[[list[tuple[Parameter, Parameter]], list[Parameter]], Sequence[torch.optim.Optimizer]]


class TorchRun(Descent):
    """torch optimizers on theta's own tensors, fed with the negative velocity of a flow: the gradient, for chain_rule.

    `make` gives the optimizers for the pairs (B, A) and the dense tensors. Their state belongs to tensors, so it stays where
    points change.
    """

    def __init__(
        self,
        blocks: Blocks,
        theta: Tensor,
        make: Make,
        *,
        step_size: float,
        max_steps: int,
        decay: bool,
        lift: Lift | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(step_size, max_steps, decay)
        self.flows = Flows(lift or ChainRule(), metric or Identity(), blocks, theta)
        self.tensors = [[Parameter(t.clone()) for t in b.split(theta.detach()[b.slice])] for b in blocks.blocks]
        pairs = [(t[0], t[1]) for t in self.tensors if len(t) == 2]
        self.torch = make(pairs, [t[0] for t in self.tensors if len(t) == 1])
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.torch]

    def state(self):
        saved = [optimizer.state_dict() for optimizer in self.torch]
        for one in saved:  # a group's settings, which need not be plain, are the method's
            one["param_groups"] = [{k: v for k, v in group.items() if _plain(v)} for group in one["param_groups"]]
        return super().state() | {"torch": saved, "flows": self.flows.state()}

    def restore(self, state, objective, theta):
        super().restore(state, objective, theta)
        for optimizer, saved in zip(self.torch, state["torch"], strict=True):
            groups = zip(optimizer.state_dict()["param_groups"], saved["param_groups"], strict=True)
            optimizer.load_state_dict({**saved, "param_groups": [own | group for own, group in groups]})
        self.flows.restore(state["flows"], objective, theta)

    def direction(self, objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
        return self.flows.at(objective, theta).velocity(theta)

    def update(self, objective: Objective, theta: Tensor, direction: Tensor) -> Tensor:
        for block, tensors in zip(objective.blocks.blocks, self.tensors, strict=True):
            now, velocities = block.split(theta[block.slice]), block.split(direction[block.slice])
            for parameter, data, velocity in zip(tensors, now, velocities, strict=True):
                parameter.data.copy_(data)
                parameter.grad = -velocity
        for optimizer, rates in zip(self.torch, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.h / self.first
            optimizer.step()
        return torch.cat([parameter.detach().reshape(-1) for tensors in self.tensors for parameter in tensors])


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


def every(pairs: list[tuple[Parameter, Parameter]], dense: list[Parameter]) -> list[Parameter]:
    """All tensors as one list, the factors first."""
    return [*(factor for pair in pairs for factor in pair), *dense]


def baseline(name: str) -> Any:
    """A class of the package pytorch-optimizer, an extra; ImportError says how it is installed."""
    try:
        import pytorch_optimizer
    except ImportError:
        raise ImportError(f"{name} comes with another package: pip install 'pinn-lora[baselines]'") from None
    return getattr(pytorch_optimizer, name)


def require_factors(name: str, blocks: Blocks) -> None:
    """ValueError for a method of pairs (B, A) where all weights are trained."""
    if not blocks.pairs:
        raise ValueError(
            f"{name} works on LoRA factors and this network has none; take full-lm, full-adam or full-lbfgs"
        )
