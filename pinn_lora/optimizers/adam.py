"""Adam on theta as it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pinn_lora.integrators import Step
from pinn_lora.optimizers import Closure, Optimizer


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015; torch's), with cosine decay of the step size to zero over the budget of steps."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: bool = True

    def start(self, blocks, theta, *, step_size, max_steps):
        return AdamRun(self, theta, step_size, max_steps)


class AdamRun:
    """torch.optim.Adam on the flat theta."""

    def __init__(self, settings, theta, step_size, max_steps):
        self.parameter = torch.nn.Parameter(theta.detach().clone())
        betas = settings.beta1, settings.beta2
        self.torch = torch.optim.Adam([self.parameter], lr=step_size, betas=betas, eps=settings.eps)
        self.first, self.max_steps, self.taken, self.decay = step_size, max_steps, 0, settings.decay
        self.h, self.closure = step_size, Closure(self.parameter)

    def step(self, objective, theta):
        value = self.closure.bind(objective)()
        self.torch.step()
        self.taken += 1
        if self.decay:
            fraction = min(self.taken / self.max_steps, 1.0)
            self.h = self.torch.param_groups[0]["lr"] = 0.5 * self.first * (1.0 + math.cos(math.pi * fraction))
        return Step(self.parameter.detach().clone(), True, self.h, value)
