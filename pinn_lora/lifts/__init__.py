"""Lifts: how a weight-space direction becomes velocities of the factors. Every file is one lift.

W = W0 + s (B A - B0 A0), B (m, r), A (r, n). With G = dL/dW the factors' gradients are g_B = s G A^T, g_A = s B^T G, which is
what autograd gives. A lift turns them into (dB/dt, dA/dt); the m x n matrix G is not needed. Where the flow is
M dy/dt = -g with M symmetric positive definite, the lift also gives M, and can then be integrated implicitly.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pinn_lora.catalog import stem
from pinn_lora.metrics import Weights


class Pair(NamedTuple):
    """The factors of one layer and their scale s."""

    B: Tensor
    A: Tensor
    scale: float

    @property
    def S(self) -> Tensor:
        """B^T B (r, r)."""
        return self.B.T @ self.B

    @property
    def K(self) -> Tensor:
        """A A^T (r, r)."""
        return self.A @ self.A.T


@dataclass(frozen=True)
class Mass:
    """M of M dy/dt = -g on y = (vec B, vec A), row by row.

    `keeps_gauge`: M maps the gauge directions (-B X, X A), which leave B A unchanged, to multiples of themselves. Adding a
    multiple of their projector to M / h + H then leaves the solution of an implicit step unchanged.
    """

    matrix: Tensor
    keeps_gauge: bool


class Lift(ABC):
    """A lift sees one pair at a time and keeps no state.

    `uses_metric`: it follows F^-1 G, and not G whatever F is. `full_units`: its product step does not depend on s, so that
    the step size is full fine-tuning's; else that step grows with s^2. `rotation_invariant`: (B R, R^T A) with orthogonal R
    have the same product step. `conserves` says what its exact flow keeps, `cost` what a velocity costs beside the gradient.
    `mass_option`: the option with which the lift has a mass, where not all have. A lift that is damped calls it `eps`.
    """

    uses_metric: ClassVar[bool] = False
    full_units: ClassVar[bool] = True
    rotation_invariant: ClassVar[bool] = True
    conserves: ClassVar[str] = ""
    cost: ClassVar[str] = "O((m+n) r^2 + r^3)"
    mass_option: ClassVar[str] = ""

    @abstractmethod
    def velocity(self, pair: Pair, g_B: Tensor, g_A: Tensor, metric: Weights) -> tuple[Tensor, Tensor]:
        """(dB/dt, dA/dt) from the loss's gradients in B (m, r) and A (r, n), and the metric of their layer."""

    def velocity_at(self, pair: Pair, metric: Weights) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The map of gradients (..., m, r) and (..., r, n) to their velocity at one pair, which an implicit step asks for many
        times: a lift that decomposes a matrix of the pair does it here, once."""
        return lambda g_B, g_A: self.velocity(pair, g_B, g_A, metric)

    def mass(self, pair: Pair, metric: Weights) -> Mass:
        """M with velocity = -M^-1 (g_B, g_A); NotImplementedError for a lift that is no such flow."""
        raise NotImplementedError(f"{type(self).__name__} has no mass")

    @property
    def has_mass(self) -> bool:
        return type(self).mass is not Lift.mass

    @property
    def undamped(self) -> tuple[str, ...]:
        """Of which factors, "B" and "A", the Gram matrix is inverted as it is, so that they must have full rank: both at
        eps = 0."""
        return ("B", "A") if getattr(self, "eps", None) == 0 else ()

    @property
    def mass_name(self) -> str | None:
        """What M is called: the lift's own, if it has one."""
        return stem(self) if self.has_mass else None


def check_start(lift: Lift, pairs: Mapping[str, Pair]) -> None:
    """ValueError for pairs, by layer name, where the lift cannot begin: one has a factor of lower rank whose Gram matrix the
    lift inverts, or no factor of any pair would move. It is tried with the gradient G = u v^T, u and v random."""
    if any(not factor.isfinite().all() for pair in pairs.values() for factor in (pair.B, pair.A)):
        return  # a run that diverges is recorded
    zero = [factor for factor in ("B", "A") if not any(getattr(pair, factor).any() for pair in pairs.values())]
    generator, moves = torch.Generator("cpu").manual_seed(0), not pairs
    for name, pair in pairs.items() if len(zero) < 2 else ():
        B, A, scale = pair
        u, v = (
            torch.randn(k, 1, generator=generator, dtype=torch.float64, device="cpu").to(B)  # the same on every device
            for k in (len(B), A.shape[1])
        )
        plain = Weights(torch.ones_like(u[:, 0]), torch.ones_like(v[:, 0]))
        dB, dA = lift.velocity(pair, scale * u @ (A @ v).T, scale * (B.T @ u) @ v.T, plain)
        finite = bool(dB.isfinite().all() and dA.isfinite().all())
        for factor in lift.undamped if finite else ("B", "A"):
            gram = pair.S if factor == "B" else pair.K
            rank = int(torch.linalg.matrix_rank(gram, hermitian=True))
            if rank < len(gram):
                if rank or lift.undamped:
                    said = f"needs factors of full rank, and {factor} of {name!r} has rank {rank} of {len(gram)}"
                else:
                    said = f"cannot begin where {factor} of {name!r} is zero"
                damping = "its damping above 0, or " if lift.undamped else ""
                raise ValueError(f"{lift} {said}; take {damping}the start balanced")
        moves = moves or bool(dB.any() or dA.any())
    if not moves:
        where = f", where {' and '.join(zero)} is zero" if zero else ""
        raise ValueError(
            f"{lift} moves no factor from this start{where}; take one in which neither is zero, such as balanced"
        )


def symmetric(matrix: Tensor) -> Tensor:
    """The matrix without what rounding made of its symmetry."""
    return 0.5 * (matrix + matrix.T)


def factored(gram: Tensor) -> tuple[Tensor, Tensor]:
    """LU and pivots of a Gram matrix, for `torch.linalg.lu_solve`; LU is nan where the matrix is singular, as a run that comes
    there diverges, and is no error."""
    LU, pivots, singular = torch.linalg.lu_factor_ex(gram)
    return torch.where(singular == 0, LU, torch.nan), pivots


def relative_damping(pair: Pair, eps: float) -> Tensor:
    """lam = eps tr(S + K) / (2 r): damping in the units of the factors, whatever their scale s."""
    return eps * (pair.B.square().sum() + pair.A.square().sum()) / (2 * pair.A.shape[0])


class Decomposed(NamedTuple):
    """lam, and S = U diag(s) U^T and K = V diag(k) V^T with s and k not below zero."""

    lam: Tensor
    s: Tensor
    U: Tensor
    k: Tensor
    V: Tensor


def decomposed(pair: Pair, eps: float) -> Decomposed:
    """The Gram matrices with the relative damping. Where factors overflowed lam is nan, and so is what is damped by it, and S
    and K are taken for zero, as eigh would raise; nobody asks which it is, for that would wait for the device."""
    lam = relative_damping(pair, eps)
    sound = lam.isfinite()
    s, U = torch.linalg.eigh(torch.where(sound, pair.S, 0.0))
    k, V = torch.linalg.eigh(torch.where(sound, pair.K, 0.0))
    return Decomposed(torch.where(sound, lam, torch.nan), s.clamp_min(0.0), U, k.clamp_min(0.0), V)


def gauge_directions(pair: Pair) -> Tensor:
    """N (m r + r n, r^2): the directions (-B E_pq, E_pq A), along which B A does not change."""
    B, A, r = pair.B, pair.A, pair.A.shape[0]
    eye = torch.eye(r, dtype=B.dtype, device=B.device)
    NB = -torch.einsum("ip,qj->ijpq", B, eye)  # (B E_pq)_ij = B_ip [q = j]
    NA = torch.einsum("ip,qj->ijpq", eye, A)  # (E_pq A)_ij = [i = p] A_qj
    return torch.cat([NB.reshape(-1, r * r), NA.reshape(-1, r * r)])
