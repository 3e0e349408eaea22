"""A method: metric, lift and integrator together, the optimizer that follows a flow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pinn_lora import integrators, lifts, metrics
from pinn_lora.catalog import build, names
from pinn_lora.flow import Flows, check_metric, cosine, total_cost
from pinn_lora.integrators import Integrator, Step
from pinn_lora.lifts import Lift
from pinn_lora.lora import Blocks
from pinn_lora.metrics import Metric
from pinn_lora.objective import Objective
from pinn_lora.optimizers import Optimizer, Resumable


@dataclass(frozen=True)
class Method(Optimizer):
    """A LoRA optimizer as three choices: metric, lift and integrator, each an instance, a name, or {"name": ..., options}.

    `decay`: the step size falls to zero over the budget of steps along a half cosine, as it must where the step does not
    shrink with the gradient. Raises ValueError for an implicit integrator with a lift that has no mass, a
    metric that the lift does not see, and decay of a step size that is controlled.
    """

    metric: Any = "identity"
    lift: Any = "chain_rule"
    integrator: Any = "euler"
    decay: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", build(metrics, Metric, self.metric))
        object.__setattr__(self, "lift", build(lifts, Lift, self.lift))
        object.__setattr__(self, "integrator", build(integrators, Integrator, self.integrator))
        if not isinstance(self.decay, bool):
            raise ValueError(f"decay is {self.decay!r}; it must be true or false")
        kind = type(self.integrator).__name__
        if self.integrator.implicit and not self.lift.has_mass:
            others = ", ".join(name for name in names(lifts) if build(lifts, Lift, name).has_mass)
            own = f", or {self.lift.mass_option}" if self.lift.mass_option else ""
            raise ValueError(
                f"{kind} needs the lift's mass and {self.lift} has none; take an explicit integrator such as rk4, or a lift "
                f"with a mass ({others}){own}"
            )
        check_metric(self.lift, self.metric)
        if self.decay and self.integrator.adaptive:
            raise ValueError(f"{kind} chooses its step sizes itself; decay is for integrators with a fixed step")

    @property
    def implicit(self) -> bool:
        return self.integrator.implicit

    @property
    def adaptive(self) -> bool:
        return self.integrator.adaptive

    @property
    def cost(self) -> str:
        """What a step on factors takes: evaluations, then the own work of metric and lift."""
        return total_cost(self.integrator.cost, self.metric, self.lift)

    def gradients(self, layers: int) -> float | None:
        """How many gradients an accepted step takes; None for an implicit one, which takes something else."""
        return None if self.implicit else self.integrator.gradients

    def start(self, blocks: Blocks, theta: Tensor, *, step_size: float, max_steps: int) -> FlowRun:
        return FlowRun(self, blocks, theta, step_size, max_steps)


class FlowRun(Resumable):
    """A method under way: the step size and the flow."""

    def __init__(self, method: Method, blocks: Blocks, theta: Tensor, step_size: float, max_steps: int) -> None:
        self.method, self.h = method, step_size
        self.first, self.max_steps, self.taken = step_size, max_steps, 0
        self.flows = Flows(method.lift, method.metric, blocks, theta)

    def state(self) -> dict[str, Any]:
        return super().state() | {"flows": self.flows.state()}

    def restore(self, state: dict[str, Any], objective: Objective | None, theta: Tensor) -> None:
        super().restore(state, objective, theta)
        self.flows.restore(state["flows"], objective, theta)

    def step(self, objective: Objective, theta: Tensor) -> Step:
        """One step; new points keep the step size."""
        flow = self.flows.at(objective, theta)
        taken = flow.past = self.method.integrator.step(flow, theta, self.h)
        if not taken.accepted and not flow.defined(theta):  # no smaller step helps: the run diverged
            taken = Step(torch.full_like(theta, torch.nan), True, self.h, taken.value)
        self.taken += 1
        if self.method.decay:
            taken = replace(taken, next_h=cosine(self.first, self.taken, self.max_steps))
        self.h = taken.next_h
        return taken
