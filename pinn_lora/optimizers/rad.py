"""RAD: Adam with a speed limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pinn_lora.optimizers import Optimizer, TorchRun, every
from pinn_lora.ranges import AVERAGE, POSITIVE, check_ranges


@dataclass(frozen=True)
class RAD(Optimizer):
    """m, v as Adam's; theta <- theta - h c m / sqrt(delta^2 v + zeta), c = sqrt(1 - beta2^t) / (1 - beta1^t); cosine decay.

    The relativistic kinetic energy bounds every unknown's step: by h / delta where its gradient is steady, and always by
    (1 - beta1) / ((1 - beta2) (1 - beta1^2 / beta2))^1/2 times that where beta1^2 < beta2, 7.3 times at the defaults. zeta
    rises from 1e-16 to 1 over the budget as exp(40 (t / T - 1)) where `anneal`, else it is `zeta`. Source: Lyu et al., RAD,
    2024 (arXiv 2412.02291), its published code, order 1; there zeta stays 1e-16 by default, here it rises by default.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    delta: float = 1.0
    zeta: float = 1e-16
    anneal: bool = True
    decay: bool = True

    def __post_init__(self):
        check_ranges(self, beta1=AVERAGE, beta2=AVERAGE, delta=POSITIVE, zeta=POSITIVE)

    def start(self, blocks, theta, *, step_size, max_steps):
        def make(pairs, dense):
            return [_RAD(every(pairs, dense), step_size, self, max_steps)]

        return TorchRun(blocks, theta, make, step_size=step_size, max_steps=max_steps, decay=self.decay)


class _RAD(torch.optim.Optimizer):
    def __init__(self, tensors, lr, settings: RAD, max_steps: int):
        super().__init__(tensors, {"lr": lr, "taken": 0, "max_steps": max_steps})
        self.settings = settings

    @torch.no_grad()
    def step(self, closure=None):
        beta1, beta2, zeta = self.settings.beta1, self.settings.beta2, self.settings.zeta
        for group in self.param_groups:
            group["taken"] += 1
            taken = group["taken"]
            if self.settings.anneal:
                zeta = min(max(math.exp(40.0 * (taken / group["max_steps"] - 1.0)), 1e-16), 1.0)
            c = math.sqrt(1.0 - beta2**taken) / (1.0 - beta1**taken)
            for parameter in group["params"]:
                state, g = self.state[parameter], parameter.grad
                m, v = state.setdefault("m", torch.zeros_like(g)), state.setdefault("v", torch.zeros_like(g))
                m.lerp_(g, 1.0 - beta1)
                v.lerp_(g.square(), 1.0 - beta2)
                parameter.addcdiv_(m, (self.settings.delta**2 * v + zeta).sqrt(), value=-group["lr"] * c)
