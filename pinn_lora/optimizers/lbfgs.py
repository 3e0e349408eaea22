"""L-BFGS with a strong Wolfe line search."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pinn_lora.integrators import Step
from pinn_lora.optimizers import Closure, Optimizer, Resumable
from pinn_lora.ranges import COUNT, Range, check_ranges

TRIES = 1.05  # gradients a step takes on average: over 1,000 steps on Burgers


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """torch's L-BFGS with a strong Wolfe line search; new points restart its secant pairs.

    Finished when the line search no longer moves theta, from a fresh history too, or when it creeps: the loss fell by under
    `stall` of itself over the last `window` steps at the same points. Source: Liu & Nocedal 1989.
    """

    adaptive = True
    evaluates = "1 gradient, more where the line search asks"
    own = "O(history P)"

    history: int = 50
    stall: float = 1e-3
    window: int = 100

    def __post_init__(self):
        check_ranges(self, history=COUNT, stall=Range(ge=0, lt=1), window=COUNT)

    def gradients(self, layers):
        return TRIES

    def start(self, blocks, theta, *, step_size, max_steps):
        return LBFGSRun(self, theta, step_size)


class LBFGSRun(Resumable):
    """One torch iteration a step."""

    def __init__(self, settings, theta, step_size):
        self.settings, self.h = settings, step_size
        self.parameter = torch.nn.Parameter(theta.detach().clone())
        self.closure, self.objective, self.losses = Closure(self.parameter), None, []
        self._restart()

    def _restart(self):
        self.fresh = True
        self.torch = torch.optim.LBFGS(
            [self.parameter],
            lr=self.h,
            max_iter=1,
            max_eval=25,
            history_size=self.settings.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def state(self):
        return super().state() | {"torch": self.torch.state_dict()}

    def restore(self, state, objective, theta):
        self._restart()
        super().restore(state, objective, theta)
        self.parameter.data.copy_(theta)
        self.torch.load_state_dict(state["torch"])
        self.objective = objective

    def step(self, objective, theta):
        if objective is not self.objective:
            self._restart()
            self.objective, self.losses = objective, []
        evaluate = self.closure.bind(objective)
        before = self.parameter.detach().clone()
        value = float(self.torch.step(evaluate))
        after = self.parameter.detach().clone()
        moved = not torch.equal(before, after)
        self.losses.append(value)
        recent = self.losses[-self.settings.window - 1 :]
        creeps = len(recent) > self.settings.window and recent[-1] > (1.0 - self.settings.stall) * recent[0]
        was_fresh, self.fresh = self.fresh, False
        if not moved and not was_fresh:
            self._restart()
        return Step(after, moved, self.h, value, finished=creeps or (not moved and was_fresh))
