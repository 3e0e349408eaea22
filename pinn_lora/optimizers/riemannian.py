"""Gradient descent on the matrices of fixed rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinn_lora.flow import Flows
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import Blocks, truncate
from pinn_lora.metrics.identity import Identity
from pinn_lora.optimizers import Descent, Optimizer, require_factors
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class Riemannian(Optimizer):
    """X <- the best rank-r approximation of X - h P_T(G), X = s B A, P_T the projection on its tangent space; kept balanced.

    P_T(G) = P_B G + G P_A - P_B G P_A is the balanced lift's product step, with its damping `eps`; the retraction is the
    singular value decomposition of a 2r x 2r matrix, O((m+n) r^2). Dense tensors follow -g. Source: Vandereycken 2013
    (arXiv 1209.3834); Absil & Oseledets 2015.
    """

    needs_factors = True
    dense = "-g"
    conserves = "B^T B = A A^T after every step"
    own = Balanced.cost

    eps: float = 1e-6
    decay: bool = False

    def __post_init__(self):
        check_ranges(self, eps=NOT_NEGATIVE)

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("riemannian", blocks)
        return RiemannianRun(self, blocks, theta, step_size, max_steps)


class RiemannianRun(Descent):
    """Each step is one gradient."""

    def __init__(self, settings: Riemannian, blocks: Blocks, theta: Tensor, step_size: float, max_steps: int) -> None:
        super().__init__(step_size, max_steps, settings.decay)
        self.flows = Flows(Balanced(settings.eps), Identity(), blocks, theta)

    def direction(self, objective, theta):
        return self.flows.at(objective, theta).velocity(theta)

    def update(self, objective, theta, direction):
        new = theta + self.h * direction
        for block in objective.blocks.pairs:
            (B, A), (dB, dA) = block.split(theta[block.slice]), block.split(self.h * direction[block.slice])
            if not (dB.any() or dA.any()):  # a zero B with a zero gradient: the truncation would take A to zero, too
                continue
            factors = truncate(torch.cat([B, dB], 1), torch.cat([A + dA, A]), len(A))  # B A + B dA + dB A
            new[block.slice] = torch.cat([factor.reshape(-1) for factor in factors])
        return new
