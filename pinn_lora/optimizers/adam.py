"""Adam on the factors' gradients, or on the velocities of a lift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pinn_lora import lifts, metrics
from pinn_lora.catalog import build
from pinn_lora.flow import check_metric, total_cost
from pinn_lora.lifts import Lift
from pinn_lora.metrics import Metric
from pinn_lora.optimizers import Optimizer, TorchRun
from pinn_lora.ranges import AVERAGE, NOT_NEGATIVE, POSITIVE, check_ranges


@dataclass(frozen=True)
class Adam(Optimizer):
    """torch's Adam with moments of a lift's velocities, and cosine decay to zero over the budget.

    lift chain_rule: Adam on theta as it stands. block_diagonal: ScaledAdam (Zhang & Pilanci 2024). lora_pro: LoRA-Pro with
    moments of the factors (published with moments of the whole m x n step). weighted with the metric adafactor:
    AdaPreLoRA-AdamW (reconstructed). refactored: RefLoRA-AdamW. `ratio`: B's step size over that of all else, about 16 is
    LoRA+. `weight_decay` is decoupled (AdamW). Source: Kingma & Ba 2015 (arXiv 1412.6980); Loshchilov & Hutter 2019 (arXiv
    1711.05101) for the decay of weights.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: bool = True
    lift: Any = "chain_rule"
    metric: Any = "identity"
    ratio: float = 1.0
    weight_decay: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "lift", build(lifts, Lift, self.lift))
        object.__setattr__(self, "metric", build(metrics, Metric, self.metric))
        check_metric(self.lift, self.metric)
        check_ranges(self, beta1=AVERAGE, beta2=AVERAGE, eps=NOT_NEGATIVE, ratio=POSITIVE, weight_decay=NOT_NEGATIVE)

    @property
    def cost(self):
        return total_cost(self.evaluates, self.metric, self.lift)

    def start(self, blocks, theta, *, step_size, max_steps):
        def make(pairs, dense):
            fast, rest = [B for B, _ in pairs], [*(A for _, A in pairs), *dense]
            groups = [{"params": fast, "lr": self.ratio * step_size}, {"params": rest, "lr": step_size}]
            options = {
                "betas": (self.beta1, self.beta2),
                "eps": self.eps,
                "weight_decay": self.weight_decay,
                "fused": True,
            }
            return [torch.optim.AdamW([group for group in groups if group["params"]], **options)]

        options = {"decay": self.decay, "lift": self.lift, "metric": self.metric}
        return TorchRun(blocks, theta, make, step_size=step_size, max_steps=max_steps, **options)
