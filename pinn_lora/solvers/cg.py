"""Conjugate gradients with a low-rank preconditioner: no matrix of N or P squared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinn_lora import lower
from pinn_lora.memory import room_gib
from pinn_lora.products import Linearization
from pinn_lora.solvers import Masses, Solver

RANK = 300  # columns of the sketch
MOST = 200  # iterations; an iterate that stops here is a descent direction like every other
SEED = 0  # of the sketch: the same steps every time


@dataclass(frozen=True)
class ConjugateGradients(Solver):
    """(M / h + H) d = -g by conjugate gradients, H v = 2 J^T (J v) from one linearisation, preconditioned by

        P = M / h + F F^T,  F F^T = H Omega (Omega^T H Omega)^+ Omega^T H,

    the randomised Nystroem approximation of H from `RANK` random directions Omega. It holds for every h:
    P^-1 r = h (M^-1 r - W c) with W = M^-1 F and (I / h + F^T W) c = W^T r, so that M itself is never needed, only M^-1, the
    lift's closed form.

    The iteration stops at |r| <= tolerance |g|, both in the norm of P^-1. Where P is near M / h + H, |r|^2 / 2 is what the
    model's decrease still lacks, so 0.1 leaves about a hundredth of it; every iterate is a descent direction.

    Source: Hestenes & Stiefel 1952; the preconditioner: Frangella, Tropp & Udell 2023 (arXiv 2110.02820), for physics-informed
    networks arXiv 2505.11638, here with the mass of the lift.
    """

    residuals: Tensor
    gradient: Tensor
    tangent: Linearization
    factor: Tensor
    lifted: Tensor
    core: Tensor
    masses: Masses

    cost = "1 Jacobian of some chunks at a time, times the sketch, and two products with it an iteration"

    @classmethod
    def at(cls, objective, theta, masses):
        free = room_gib(theta.device, objective.max_memory)
        planned = cls.gib(objective.rows, objective.size) + objective.chunk_gib
        left = 2.0 if free is None else max(0.5 * (free - planned), 0.0)
        tangent = objective.linearize(theta, room=left)
        R = tangent.residuals
        F = nystroem_factor(objective, theta, min(RANK, objective.size))
        W = masses.inverse(F.T).T
        return cls(R, 2.0 * tangent.adjoint(R), tangent, F, W, F.T @ W, masses)

    @classmethod
    def gib(cls, rows, unknowns):
        return 8 * ((4 * min(RANK, unknowns) + 10) * unknowns + 4 * rows) / 2**30  # Omega, H Omega, F, W; vectors

    @classmethod
    def operations(cls, rows, unknowns):
        # the sketch, and some twenty iterations by jets of four derivatives; three times that, as the step is inexact
        return 3 * 4 * rows * unknowns * (min(RANK, unknowns) + 4 * 20)

    def solve(self, h, tolerance=0.1, residuals=None):
        b = -self.gradient if residuals is None else -2.0 * self.tangent.adjoint(residuals)
        if not (b.isfinite().all() & self.core.isfinite().all()):
            return torch.full_like(b, torch.nan)
        inner = lower.factor(self.core + self.core.new_ones(len(self.core)).diag() / h)
        if inner is None:  # M^-1 is not what it should be: a Gram matrix of the lift has become singular
            return torch.full_like(b, torch.nan)

        def precondition(r: Tensor) -> tuple[Tensor, Tensor]:
            """z = P^-1 r and M z."""
            c = lower.solve(inner, self.lifted.T @ r)
            return h * (self.masses.inverse(r) - self.lifted @ c), h * (r - self.factor @ c)

        d, r = torch.zeros_like(b), b
        p, Mp = precondition(r)
        size = first = r @ p
        if not first > 0.0 and b.any():  # h is so large that rounding is all that is left of P^-1
            return torch.full_like(b, torch.nan)
        for _ in range(MOST):
            if not size > tolerance**2 * first:  # all that an iteration waits for a device
                break
            Ap = Mp / h + 2.0 * self.tangent.normal(p)
            alpha = size / (p @ Ap)
            d, r = d + alpha * p, r - alpha * Ap
            z, Mz = precondition(r)
            size, before = r @ z, size
            p, Mp = z + (size / before) * p, Mz + (size / before) * Mp
        return d

    def predicted(self, d):
        return float(-(self.gradient @ d) - self.tangent.forward(d).square().sum())


def nystroem_factor(objective, theta: Tensor, rank: int) -> Tensor:
    """F (P, l), l <= rank, with F F^T the Nystroem approximation of H = 2 J^T J from Gaussian directions."""
    generator = torch.Generator("cpu").manual_seed(SEED)  # the same directions on every device
    directions = torch.randn(objective.size, rank, generator=generator, dtype=torch.float64, device="cpu").to(
        theta.device
    )
    directions = torch.linalg.qr(directions).Q
    image = objective.sketch(theta, directions)
    if not image.isfinite().all():  # eigh would raise
        return image
    values, vectors = torch.linalg.eigh(directions.T @ image)  # Omega^T H Omega
    real = values > 1e-13 * values[-1]  # below, rounding
    return image @ (vectors[:, real] / values[real].sqrt())
