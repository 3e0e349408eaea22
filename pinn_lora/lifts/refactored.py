"""RefLoRA's lift: the gradient in the balanced one of all factorisations of the product."""

from dataclasses import dataclass

import torch

from pinn_lora.lifts import Lift, Mass, relative_damping, symmetric
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class Refactored(Lift):
    """dB = -g_B T^-1, dA = -T g_A with T S T = K, the geometric mean of S^-1 and K (r, r).

    B A = (B X) (X^-1 A) for every X; with X X^T = T both factors have the same Gram matrix, and this is the gradient there,
    brought back. So the product step depends on B A alone, and scales with s^2. M = diag(I (x) T, T^-1 (x) I). S and K carry
    lam = eps tr(S + K) / (2 r). Source: Zhang et al., RefLoRA, 2025 (arXiv 2505.18877).
    """

    full_units = False
    conserves = "the path of B A does not depend on how it is factored"

    eps: float = 1e-4

    def __post_init__(self):
        check_ranges(self, eps=NOT_NEGATIVE)

    def _means(self, pair):
        """T and T^-1, by S = U s U^T and U s^1/2 U^T K U s^1/2 U^T = V q V^T: T = Y Y^T with Y = U s^-1/2 U^T V q^1/4."""
        lam = relative_damping(pair, self.eps)
        if not lam.isfinite():  # factors that overflowed: eigh would raise
            broken = torch.full_like(pair.S, torch.nan)
            return broken, broken
        s, U = torch.linalg.eigh(pair.S)
        root = (s.clamp_min(0.0) + lam).sqrt()
        half = (U * root) @ U.T
        q, V = torch.linalg.eigh(symmetric(half @ (pair.K + lam * s.new_ones(len(s)).diag()) @ half))
        q = q.clamp_min(0.0).sqrt().sqrt()
        Y = (U / root) @ (U.T @ V) * q
        inverse = half @ V / q
        return Y @ Y.T, inverse @ inverse.T

    def velocity(self, pair, g_B, g_A, metric):
        T, inverse = self._means(pair)
        return -g_B @ inverse, -T @ g_A

    def mass(self, pair, metric):
        (T, inverse), m, n = self._means(pair), len(pair.B), pair.A.shape[1]
        return Mass(
            torch.block_diag(torch.kron(T.new_ones(m).diag(), T), torch.kron(inverse, T.new_ones(n).diag())),
            keeps_gauge=False,
        )
