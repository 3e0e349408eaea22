"""ScaledGD: each factor preconditioned by the other's Gram matrix."""

from dataclasses import dataclass

import torch

from pinn_lora.lifts import Lift, Mass, factored, relative_damping
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class BlockDiagonal(Lift):
    """dB = -s^-2 g_B (K + lam I)^-1, dA = -s^-2 (S + lam I)^-1 g_A: ScaledGD, Riemannian preconditioned LoRA.

    M = s^2 diag(I (x) (K + lam I), (S + lam I) (x) I), lam = eps tr(S + K) / (2 r). Source: Tong, Ma & Chi, ScaledGD,
    2021 (arXiv 2005.08898); Zhang & Pilanci 2024 (arXiv 2402.02347); that lam is relative to the factors' size is ours. At
    lam = 0 its product step counts the part P_B G P_A twice.
    """

    eps: float = 1e-4

    def __post_init__(self):
        check_ranges(self, eps=NOT_NEGATIVE)

    def _grams(self, pair):
        shift = relative_damping(pair, self.eps) * pair.A.new_ones(pair.A.shape[0]).diag()
        return pair.S + shift, pair.K + shift

    def velocity(self, pair, g_B, g_A, metric):
        return self.velocity_at(pair, metric)(g_B, g_A)

    def velocity_at(self, pair, metric):
        S, K = (factored(gram) for gram in self._grams(pair))
        unit = pair.scale**-2
        return lambda g_B, g_A: (
            -unit * torch.linalg.lu_solve(*K, g_B, left=False),
            -unit * torch.linalg.lu_solve(*S, g_A),
        )

    def mass(self, pair, metric):
        (S, K), (m, n) = self._grams(pair), (pair.B.shape[0], pair.A.shape[1])
        blocks = torch.block_diag(torch.kron(K.new_ones(m).diag(), K), torch.kron(S, S.new_ones(n).diag()))
        return Mass(pair.scale**2 * blocks, keeps_gauge=False)
