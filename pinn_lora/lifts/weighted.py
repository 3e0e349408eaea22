"""AdaPreLoRA's lift: full fine-tuning's preconditioned step, as near as factors come in the metric's own norm."""

from dataclasses import dataclass

import torch

from pinn_lora.lifts import Lift, Mass, factored, symmetric
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class Weighted(Lift):
    """With F = Q (x) P, S_B = B^T P B, S_A = A Q A^T, kappa = (1 - lam) / 2 and unit = s^-2 / (1 + lam)

        dB = -unit (P^-1 g_B S_A^-1 - kappa B S_B^-1 (B^T g_B) S_A^-1),
        dA = -unit (S_B^-1 g_A Q^-1 - kappa S_B^-1 (g_A A^T) S_A^-1 A).

    At lam = 0 dB A + B dA is nearest to -F^-1 G in the F-weighted norm, and among the velocities that make it the two parts
    are nearest to each other; lam = 1 is half of ScaledGD weighted by F; lam > 0 also weighs the two parts' difference,
    M = s^2 (J^T F J + lam J_-^T F J_-). S_B and S_A carry the ridge eps tr(S_B + S_A) / (2 r), so that the start B = 0 is
    finite. The mass here is the block-diagonal one with the same velocity:
    (1 + lam) s^2 diag((P^-1 - kappa B S_B^-1 B^T)^-1 (x) S_A, S_B (x) (Q^-1 - kappa A^T S_A^-1 A)^-1).
    Source: Liu, Bian & Cai, AdaPreLoRA, 2026 (arXiv 2605.08734); from its abstract, reconstructed; lam and the mass are ours.
    """

    uses_metric = True

    lam: float = 0.0
    eps: float = 1e-4

    def __post_init__(self):
        check_ranges(self, lam=NOT_NEGATIVE, eps=NOT_NEGATIVE)

    def _grams(self, pair, metric):
        """B^T P B, A Q A^T and the ridge that both carry."""
        (B, A, _), (P, Q) = pair, metric
        plain_B, plain_A = (B.T * P) @ B, (A * Q) @ A.T
        ridge = self.eps * (plain_B.trace() + plain_A.trace()) / (2 * len(A))
        return plain_B, plain_A, ridge * A.new_ones(len(A)).diag()

    def velocity(self, pair, g_B, g_A, metric):
        return self.velocity_at(pair, metric)(g_B, g_A)

    def velocity_at(self, pair, metric):
        (B, A, scale), (P, Q), kappa = pair, metric, 0.5 * (1.0 - self.lam)
        plain_B, plain_A, ridge = self._grams(pair, metric)
        S_B, S_A = (factored(plain + ridge) for plain in (plain_B, plain_A))
        unit = scale**-2 / (1.0 + self.lam)

        def velocity(g_B, g_A):
            right = torch.linalg.lu_solve(*S_A, g_B, left=False)  # g_B S_A^-1
            left = torch.linalg.lu_solve(*S_B, g_A)  # S_B^-1 g_A
            dB = right / P[:, None] - kappa * B @ torch.linalg.lu_solve(*S_B, B.T @ right)
            dA = left / Q - kappa * torch.linalg.lu_solve(*S_A, left @ A.T, left=False) @ A
            return -unit * dB, -unit * dA

        return velocity

    def mass(self, pair, metric):
        (B, A, scale), (P, Q), kappa = pair, metric, 0.5 * (1.0 - self.lam)
        plain_B, plain_A, ridge = self._grams(pair, metric)
        S_B, S_A = plain_B + ridge, plain_A + ridge
        PB, AQ = P[:, None] * B, A * Q
        left = torch.diag(P) + kappa * PB @ torch.linalg.lu_solve(*factored(S_B - kappa * plain_B), PB.T)
        right = torch.diag(Q) + kappa * AQ.T @ torch.linalg.lu_solve(*factored(S_A - kappa * plain_A), AQ)
        blocks = torch.block_diag(
            torch.kron(symmetric(left), symmetric(S_A)), torch.kron(symmetric(S_B), symmetric(right))
        )
        return Mass((1.0 + self.lam) * scale**2 * blocks, keeps_gauge=False)
