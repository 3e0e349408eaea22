"""The subspace in which a natural-gradient step is large where its estimate is sure."""

from dataclasses import dataclass

import torch

from pinn_lora.initializers import Initializer
from pinn_lora.ranges import POSITIVE, check_ranges


@dataclass(frozen=True)
class LoRADA(Initializer):
    """A0 the r lowest eigenvectors of Omega = -alpha D^T D + beta tr(C^-1) / (N sigma_1^2) Z^-1, D = -C^-1 G Z^-1 / sigma_1
    the scaled natural-gradient step; A = A0^T / gamma^1/2, B = D A0 / gamma^1/2.

    Z (n, n) and C (m, diagonal) are the Kronecker factors of the layer's curvature, here of the Gauss-Newton matrix from
    the probe's N rows, Z = sum J_i^T J_i / m and C_k = sum |J_ik|^2 / n, each with `damping` of its mean. Source: Zhang
    et al., LoRA-DA, 2025 (arXiv 2510.24561), from its published code; the curvature is ours (theirs is Fisher's,
    from labels), and so is subtracting the start.
    """

    needs_probe = True

    alpha: float = 1.0
    beta: float = 0.03
    gamma: float = 1024.0
    damping: float = 1e-4

    def __post_init__(self):
        check_ranges(self, alpha=POSITIVE, beta=POSITIVE, gamma=POSITIVE, damping=POSITIVE)

    def _floor(self, diagonal):
        """`damping` of the mean; where nothing moves the residuals, of 1."""
        mean = diagonal.mean()
        return self.damping * torch.where(mean > 0, mean, 1.0)

    def factors(self, site):
        (m, n), J, G = site.weight.shape, site.jacobian, site.gradient
        Z = torch.einsum("ikp,ikq->pq", J, J) / m
        C = J.square().sum((0, 2)) / n
        Z = Z + self._floor(Z.diagonal()) * Z.new_ones(n).diag()
        C = C + self._floor(C)
        step = -torch.linalg.solve(Z, (G / C[:, None]).T).T
        # Omega times sigma_1^2: the same eigenvectors, and finite where the gradient is zero
        omega = -self.alpha * step.T @ step + self.beta * (1.0 / C).sum() / len(J) * torch.linalg.inv(Z)
        A0 = torch.linalg.eigh(0.5 * (omega + omega.T)).eigenvectors[:, : site.rank]
        D = step / torch.linalg.matrix_norm(step, 2).clamp_min(1e-300)
        return D @ A0 / self.gamma**0.5, A0.T / self.gamma**0.5
