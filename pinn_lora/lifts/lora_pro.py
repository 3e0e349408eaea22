"""LoRA-Pro: the velocities whose product is nearest to full fine-tuning's, in a gauge of choice."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from pinn_lora.catalog import choose
from pinn_lora.lifts import Lift, Mass, decomposed, factored, relative_damping, symmetric
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges

Gauge = Literal["sylvester", "zero", "symmetry"]


@dataclass(frozen=True)
class LoRAPro(Lift):
    """dA = -s^-2 (S^-1 g_A + X A), dB = -s^-2 ((I - P_B) g_B K^-1 - B X), with the gauge X (r, r) one of

    zero: X = 0; symmetry: X = -S^-1 B^T g_B K^-1 / 2, which makes the two parts dB A and B dA nearest to each other;
    sylvester: S X + X K = -S^-1 g_A A^T, which makes the velocities nearest to (-g_B, -g_A).

    S and K carry the damping lam = eps tr(S + K) / (2 r). The product step is the same in every gauge, at lam = 0 balanced's;
    in gauge sylvester so are the velocities. Masses: zero (I + B B^T / lam) (x) K and S (x) I; symmetry
    (I - P_B / 2)^-1 (x) K and S (x) (I - P_A / 2)^-1; sylvester none here (balanced has it). Source: Wang et al., LoRA-Pro,
    ICLR 2025 (arXiv 2407.18242); damping and masses are ours.
    """

    conserves = "B^T B - A A^T in gauge sylvester without damping"
    mass_option = "lora_pro with the gauge symmetry"

    gauge: Gauge = "sylvester"
    eps: float = 1e-4

    def __post_init__(self):
        choose(self.gauge, get_args(Gauge), what="gauge of lora_pro")
        check_ranges(self, eps=NOT_NEGATIVE)

    @property
    def has_mass(self):
        return self.gauge == "symmetry" or (self.gauge == "zero" and self.eps > 0)

    def velocity(self, pair, g_B, g_A, metric):
        return self.velocity_at(pair, metric)(g_B, g_A)

    def velocity_at(self, pair, metric):
        lam, s, U, k, V = decomposed(pair, self.eps)
        s, k, unit = s + lam, k + lam, pair.scale**-2

        def velocity(g_B, g_A):
            left = U @ (U.T @ g_A / s[:, None])  # S^-1 g_A
            right = ((g_B @ V) / k) @ V.T  # g_B K^-1
            inner = U @ ((U.T @ pair.B.T @ right) / s[:, None])  # S^-1 B^T g_B K^-1
            if self.gauge == "zero":
                X = torch.zeros_like(inner)
            elif self.gauge == "symmetry":
                X = -0.5 * inner
            else:
                X = -U @ ((U.T @ left @ pair.A.T @ V) / (s[:, None] + k)) @ V.T
            return -unit * (right - pair.B @ (inner + X)), -unit * (left + X @ pair.A)

        return velocity

    def mass(self, pair, metric):
        if not self.has_mass:
            raise NotImplementedError(f"lora_pro has no mass in gauge {self.gauge} with eps {self.eps}; take balanced")
        (B, A, scale), lam = pair, relative_damping(pair, self.eps)
        (m, r), n = B.shape, A.shape[1]
        I_m, I_n, shift = B.new_ones(m).diag(), B.new_ones(n).diag(), lam * B.new_ones(r).diag()
        S, K = pair.S + shift, pair.K + shift
        if self.gauge == "zero":
            left, right = I_m + B @ B.T / lam, I_n
        else:
            left = I_m + 0.5 * B @ torch.linalg.lu_solve(*factored(S - 0.5 * pair.S), B.T)
            right = I_n + 0.5 * A.T @ torch.linalg.lu_solve(*factored(K - 0.5 * pair.K), A)
        blocks = torch.block_diag(torch.kron(symmetric(left), K), torch.kron(S, symmetric(right)))
        return Mass(scale**2 * blocks, keeps_gauge=False)
