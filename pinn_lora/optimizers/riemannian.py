"""Gradient descent on the matrices of fixed rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pinn_lora.flow import Flows, cosine
from pinn_lora.integrators import Step
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import truncate
from pinn_lora.metrics.identity import Identity
from pinn_lora.optimizers import Optimizer, require_factors


@dataclass(frozen=True)
class Riemannian(Optimizer):
    """X <- the best rank-r approximation of X - h P_T(G), X = B A, P_T the projection on its tangent space; kept balanced.

    P_T(G) = P_B G + G P_A - P_B G P_A is the balanced lift's product step, with its damping `eps`; the retraction is the
    singular value decomposition of a 2r x 2r matrix, O((m+n) r^2). Dense tensors follow -g. Source: fixed-rank Riemannian
    descent, e.g. Vandereycken 2013, Absil & Oseledets 2015.
    """

    needs_factors = True
    conserves = "B^T B = A A^T after every step"
    cost = "1 gradient, O((m+n) r^2)"

    eps: float = 1e-6
    decay: bool = False

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("riemannian", blocks)
        return RiemannianRun(self, step_size, max_steps)


class RiemannianRun:
    """Each step is one gradient."""

    def __init__(self, settings: Riemannian, step_size: float, max_steps: int) -> None:
        self.settings, self.h, self.first, self.max_steps, self.taken = settings, step_size, step_size, max_steps, 0
        self.flows = Flows(Balanced(settings.eps), Identity())

    def step(self, objective, theta):
        value, velocity = self.flows.at(objective, theta).velocity(theta)
        if not velocity.isfinite().all():
            return Step(torch.full_like(theta, torch.nan), True, self.h, value)
        new = theta + self.h * velocity
        for block in objective.blocks.pairs:
            (B, A), (dB, dA) = block.split(theta[block.slice]), block.split(self.h * velocity[block.slice])
            factors = truncate(torch.cat([B, dB], 1), torch.cat([A + dA, A]), len(A))  # B A + B dA + dB A
            new[block.slice] = torch.cat([factor.reshape(-1) for factor in factors])
        self.taken += 1
        if self.settings.decay:
            self.h = cosine(self.first, self.taken, self.max_steps)
        return Step(new, not torch.equal(new, theta), self.h, value)
