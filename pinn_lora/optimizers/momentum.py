"""Gradient descent with momentum, on the velocities of a lift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pinn_lora import lifts, metrics
from pinn_lora.catalog import build
from pinn_lora.flow import check_metric, total_cost
from pinn_lora.lifts import Lift
from pinn_lora.metrics import Metric
from pinn_lora.optimizers import Optimizer, TorchRun, every
from pinn_lora.ranges import Range, check_ranges


@dataclass(frozen=True)
class Momentum(Optimizer):
    """v <- beta v + velocity, theta <- theta + h v (heavy ball, torch's SGD), or Nesterov's form; with cosine decay.

    Source: Polyak 1964; Nesterov 1983.
    """

    beta: float = 0.9
    nesterov: bool = False
    decay: bool = True
    lift: Any = "chain_rule"
    metric: Any = "identity"

    def __post_init__(self):
        object.__setattr__(self, "lift", build(lifts, Lift, self.lift))
        object.__setattr__(self, "metric", build(metrics, Metric, self.metric))
        check_metric(self.lift, self.metric)
        check_ranges(self, beta=Range(gt=0, lt=1))

    @property
    def cost(self):
        return total_cost(self.evaluates, self.metric, self.lift)

    def start(self, blocks, theta, *, step_size, max_steps):
        def make(pairs, dense):
            return [torch.optim.SGD(every(pairs, dense), lr=step_size, momentum=self.beta, nesterov=self.nesterov)]

        options = {"decay": self.decay, "lift": self.lift, "metric": self.metric}
        return TorchRun(blocks, theta, make, step_size=step_size, max_steps=max_steps, **options)
