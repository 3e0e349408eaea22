"""OD-LoRA: factors that act through orthonormal bases of their own subspaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pinn_lora.catalog import choose
from pinn_lora.optimizers import Descent, Optimizer, require_factors
from pinn_lora.ranges import AVERAGE, COUNT, COUNT_OR_NONE, check_ranges

Basis = Literal["qr", "polar"]


@dataclass(frozen=True)
class ODLoRA(Optimizer):
    """W = W0 + s (Q_B A + B Q_A^T) + const with orthonormal Q_B, Q_A held fixed: dA = -s Q_B^T G, dB = -s G Q_A.

    That is an adapter of rank 2r, B' = [Q_B, B] and A' = [A; Q_A^T], with half of each factor frozen: give it twice the rank.
    Its product step is s^2 (P_B G + G P_A), ScaledGD's without an inverse. In the first `warmup` steps, and in every `every`-th
    after them, the bases become those of the moving halves (B and A^T), by `basis` qr, signs aligned with the bases before,
    or polar, (B (B^T B)^-1/2). That moves W: near the start once more by what the steps since the last change moved outside of
    the old bases, so rare changes are jumps. `beta` is momentum, which starts anew then; dense tensors follow -g, with the same
    momentum. ValueError from a start whose frozen halves are not these bases already, such as balanced and zero_b: the first
    change would replace them and leave W far from the base. Source: OD-LoRA (2025, OpenReview Icte1N6WQK), from its abstract
    and the mechanism of SDS-LoRA (Oh et al. 2026), reconstructed; the schedule and the start are ours.
    """

    needs_factors = True
    rank_factor = 2
    dense = "-g"
    initializer = "od_lora"
    own = "O((m+n) r^2) where the bases are renewed"

    basis: Basis = "qr"
    warmup: int = 10
    every: int = 10
    beta: float = 0.0
    decay: bool = False

    def __post_init__(self):
        choose(self.basis, get_args(Basis), what="basis of od_lora")
        check_ranges(self, warmup=COUNT_OR_NONE, every=COUNT, beta=AVERAGE)

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("od_lora", blocks)
        run = ODLoRARun(self, step_size, max_steps)
        for block in blocks.pairs:
            B, A = block.split(theta[block.slice])
            if len(A) % 2:
                raise ValueError(f"od_lora freezes half of each factor, so its rank must be even; it is {len(A)}")
            if not (B.isfinite().all() and A.isfinite().all() and run.holds_its_bases(B, A)):
                raise ValueError(
                    "od_lora begins with frozen halves that are the bases of the moving ones, else its first step would lose "
                    "the pretrained network; take the start od_lora"
                )
        return run


class ODLoRARun(Descent):
    """The bases are halves of theta itself."""

    def __init__(self, settings: ODLoRA, step_size: float, max_steps: int) -> None:
        super().__init__(step_size, max_steps, settings.decay)
        self.settings = settings
        self.momentum: Tensor | None = None

    def holds_its_bases(self, B: Tensor, A: Tensor) -> bool:
        """Whether the frozen halves are the bases of the moving ones, to half of the digits: QR costs a few."""
        r, tolerance = len(A) // 2, torch.finfo(B.dtype).eps ** 0.5
        halves = (B[:, r:], B[:, :r]), (A[:r].T, A[r:].T)
        return all(bool((self._basis(moving, Q) - Q).norm() <= tolerance) and moving.any() for moving, Q in halves)

    def direction(self, objective, theta):
        return objective.gradient(theta)

    def update(self, objective, theta, direction):
        moving, steps = direction.clone(), self.taken + 1
        for block in objective.blocks.pairs:
            B, A = block.split(moving[block.slice])
            B[:, : len(A) // 2], A[len(A) // 2 :] = 0.0, 0.0
        momentum = moving if self.momentum is None else self.settings.beta * self.momentum + moving
        self.momentum, new = momentum, theta - self.h * momentum
        if steps <= self.settings.warmup or steps % self.settings.every == 0:
            for block in objective.blocks.pairs:
                self._refresh(*block.split(new[block.slice]))
            self.momentum = None
        return new

    def _refresh(self, B: Tensor, A: Tensor) -> None:
        """Writes the bases of the moving halves into the frozen ones, in place."""
        r = len(A) // 2
        B[:, :r] = self._basis(B[:, r:], B[:, :r])
        A[r:] = self._basis(A[:r].T, A[r:].T).T

    def _basis(self, factor: Tensor, before: Tensor) -> Tensor:
        if self.settings.basis == "polar":
            U, _, V = torch.linalg.svd(factor, full_matrices=False)
            return U @ V
        Q = torch.linalg.qr(factor).Q
        signs = (Q * before).sum(0).sign()
        return Q * torch.where(signs == 0, 1.0, signs)
