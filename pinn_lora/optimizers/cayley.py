"""Cayley: one factor rotates, so that its columns stay orthonormal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinn_lora.optimizers import Descent, Optimizer, require_factors


@dataclass(frozen=True)
class Cayley(Optimizer):
    """B <- (I + h/2 R)^-1 (I - h/2 R) B with R = g_B B^T - B g_B^T, A <- A - h g_A: B^T B stays as it is.

    R is skew and has rank 2r; the rotation costs O(m r^2) by the Sherman-Morrison-Woodbury formula. From a start whose B has
    orthonormal columns, up to a number, such as balanced, it descends on W = W0 + s B A with B on the Stiefel manifold;
    refused from a zero B. Dense tensors follow -g. Source: Wen & Yin 2013; the orthogonal flow of ODEtoODE, Choromanski
    et al. 2020 (arXiv 2006.11421).
    """

    needs_factors = True
    dense = "-g"
    initializer = "balanced"
    conserves = "B^T B"
    own = "O(m r^2 + r^3)"

    decay: bool = False

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("cayley", blocks)
        for block in blocks.pairs:
            if not block.split(theta[block.slice])[0].any():
                raise ValueError("cayley rotates B and this start's is zero; take the start balanced")
        return CayleyRun(step_size, max_steps, self.decay)


class CayleyRun(Descent):
    """Each step is one gradient."""

    def direction(self, objective, theta):
        return objective.gradient(theta)

    def update(self, objective, theta, direction):
        new = theta - self.h * direction
        for block in objective.blocks.pairs:
            (B, _), (g_B, _) = block.split(theta[block.slice]), block.split(direction[block.slice])
            block.split(new[block.slice])[0].copy_(rotate(B, g_B, self.h))
        return new


def rotate(B: Tensor, g_B: Tensor, h: float) -> Tensor:
    """B - h U (I + h/2 V^T U)^-1 V^T B with R = U V^T, U = [g_B, B], V = [B, -g_B]."""
    U, V = torch.cat([g_B, B], 1), torch.cat([B, -g_B], 1)
    inner = B.new_ones(U.shape[1]).diag() + 0.5 * h * V.T @ U
    return B - h * U @ torch.linalg.solve(inner, V.T @ B)
