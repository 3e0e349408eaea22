"""The balanced lift of ODELoRA."""

from dataclasses import dataclass

import torch

from pinn_lora.lifts import Lift, Mass, decomposed, relative_damping
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class Balanced(Lift):
    """The velocities of minimum norm whose product is nearest to full fine-tuning's: ODELoRA (reconstructed).

    min ||dB A + B dA + G||_F, damped by lam = eps tr(S + K) / (2 r):
        S Z + Z K + lam Z = B^T g_B,  dB = -s^-2 (g_B - B Z)(K + lam I)^-1,  dA = -s^-2 (S + lam I)^-1 (g_A - Z A).
    B^T dB = dA A^T for every lam, so the flow keeps B^T B - A A^T. M = s^2 (J^T J + lam I) with J the Jacobian of
    (B, A) -> B A. The step of the product does not depend on s: the step size is full fine-tuning's. Cost O((m+n) r^2 + r^3).
    With eps = 0 both factors must have full rank. Source: Gao & Tan, ODELoRA, 2026 (arXiv 2602.07479);
    from its abstract, reconstructed.
    """

    conserves = "B^T B - A A^T, for every damping"

    eps: float = 1e-4

    def __post_init__(self):
        check_ranges(self, eps=NOT_NEGATIVE)

    def velocity(self, pair, g_B, g_A, metric):
        return self.velocity_at(pair, metric)(g_B, g_A)

    def velocity_at(self, pair, metric):
        lam, s, U, k, V = decomposed(pair, self.eps)
        unit, both = pair.scale**-2, s[:, None] + k[None, :] + lam

        def velocity(g_B, g_A):
            Z = U @ (U.T @ (pair.B.T @ g_B) @ V / both) @ V.T
            dB = -unit * (((g_B - pair.B @ Z) @ V) / (k + lam)) @ V.T
            return dB, -unit * U @ ((U.T @ (g_A - Z @ pair.A)) / (s + lam)[:, None])

        return velocity

    def mass(self, pair, metric):
        B, A = pair.B, pair.A
        (m, r), n = B.shape, A.shape[1]
        eye = B.new_ones(max(m, n)).diag()
        cross = torch.einsum("iq,pj->ipqj", B, A).reshape(m * r, r * n)
        top = torch.cat([torch.kron(eye[:m, :m], pair.K), cross], dim=1)
        bottom = torch.cat([cross.T, torch.kron(pair.S, eye[:n, :n])], dim=1)
        M = torch.cat([top, bottom])
        M.diagonal().add_(relative_damping(pair, self.eps))
        return Mass(pair.scale**2 * M, keeps_gauge=True)
