"""RefLoRA's lift: the gradient in the balanced one of all factorisations of the product."""

from dataclasses import dataclass

import torch

from pinn_lora.lifts import Lift, Mass, symmetric
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class Refactored(Lift):
    """dB = -g_B T^-1, dA = -T g_A with T S T = K, the geometric mean of S^-1 and K (r, r).

    B A = (B X) (X^-1 A) for every X; with X X^T = T both factors have the same Gram matrix, and this is the gradient there,
    brought back. So the product step depends on B A = U sigma V^T alone, and scales with s^2. Damping keeps that: it is added
    to K^1/2 S K^1/2, whose eigenvalues are sigma^2,

        T = K^1/2 (K^1/2 S K^1/2 + eps^2 I)^-1/2 K^1/2,
        dB A + B dA = -s^2 (G V (sigma^2 + eps^2)^1/2 V^T + U sigma^2 (sigma^2 + eps^2)^-1/2 U^T G),

    so eps is a length of B A, and the step from B = 0 is eps times full fine-tuning's in the rows of A, all of which B moves.
    A must not be zero: T would be. M = diag(I (x) T, T^-1 (x) I). Source: Zhang et al., RefLoRA, 2025 (arXiv 2505.18877);
    the damping is ours: published, the first steps from B = 0 are plain LoRA's, or both factors start random.
    """

    full_units = False
    conserves = "the path of B A does not depend on how it is factored"

    eps: float = 1e-2

    def __post_init__(self):
        check_ranges(self, eps=NOT_NEGATIVE)

    def _means(self, pair):
        """T = Z Z^T and T^-1 = Y Y^T by K = V k V^T and K^1/2 S K^1/2 = Q q Q^T: Z = K^1/2 Q (q + eps^2)^-1/4."""
        S, K = pair.S, pair.K
        sound = (S.trace() * K.trace()).isfinite()  # else factors overflowed, and eigh would raise
        S, K = torch.where(sound, S, 0.0), torch.where(sound, K, 0.0)
        k, V = torch.linalg.eigh(K)
        k = k.clamp_min(0.0) + 10.0 * torch.finfo(k.dtype).eps * K.trace() / len(k)  # rows of A that depend on others
        half = (V * k.sqrt()) @ V.T
        q, Q = torch.linalg.eigh(symmetric(half @ S @ half))
        fourth = (q.clamp_min(0.0) + self.eps**2).sqrt().sqrt()
        Z, Y = half @ Q / fourth, (V / k.sqrt()) @ (V.T @ Q) * fourth
        return torch.where(sound, Z @ Z.T, torch.nan), torch.where(sound, Y @ Y.T, torch.nan)

    def velocity(self, pair, g_B, g_A, metric):
        return self.velocity_at(pair, metric)(g_B, g_A)

    def velocity_at(self, pair, metric):
        T, inverse = self._means(pair)
        return lambda g_B, g_A: (-g_B @ inverse, -T @ g_A)

    def mass(self, pair, metric):
        (T, inverse), m, n = self._means(pair), len(pair.B), pair.A.shape[1]
        return Mass(
            torch.block_diag(torch.kron(T.new_ones(m).diag(), T), torch.kron(inverse, T.new_ones(n).diag())),
            keeps_gauge=False,
        )
