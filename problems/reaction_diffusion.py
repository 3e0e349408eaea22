"""Logistic growth from a bump, with diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import cos, exp
from pinn_lora.problem import Problem, initial, periodic
from pinn_lora.references.spectral import Equation, Periodic, solve_periodic


@dataclass(frozen=True)
class ReactionDiffusion(Problem):
    """Reaction-diffusion: u_t = nu u_xx + rho u (1 - u) on x in [0, 2 pi], t in [0, 1], periodic, from a bump.

    u(x, 0) = exp(4 (cos(x - pi) - 1)) is smooth and periodic, in place of the Gaussian of Krishnapriyan et al. (NeurIPS
    2021), which has a kink at the period's ends. form="ansatz": u = u(x, 0) + t n with n periodic in x; form="soft": u = n,
    both conditions as terms of the loss. Reference: Fourier series with 170 modes, ETDRK4 with 3,840 steps; its stated error
    is 2e-12 (a second once, a file of 0.5 MB).
    """

    nu: float = 3.0
    rho: float = 5.0
    form: str = "ansatz"

    domain = Domain(x=(0.0, 2.0 * math.pi), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.nu) and self.nu >= 0):
            raise ValueError(f"ReactionDiffusion: the diffusion nu is {self.nu}; it must be a number, at least 0")
        if not math.isfinite(self.rho):
            raise ValueError(f"ReactionDiffusion: the rate rho is {self.rho}; it must be finite")
        choose(self.form, ["ansatz", "soft"], what="form of ReactionDiffusion")

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "ansatz" else ()

    def residual(self, p, u):
        return u.t - self.nu * u.xx - self.rho * u * (1.0 - u)

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(_start), periodic(on="x", derivatives=1)]

    def ansatz(self, p, n):
        return _start(p) + p.t * n if self.form == "ansatz" else n

    def reference(self, p):
        return _solution(self.nu, self.rho)(np.asarray(p.x), np.asarray(p.t))

    def reference_error(self):
        return _solution(self.nu, self.rho).error


def _start(p):
    return exp(4.0 * cos(p.x - math.pi) - 4.0)


@lru_cache(maxsize=4)
def _solution(nu: float, rho: float) -> Periodic:
    equation = Equation(
        symbol=lambda k: nu * k**2 + rho,
        nonlinear=lambda u: -rho * u**2,
        degree=2,
        start=lambda x: np.exp(4.0 * (np.cos(x - np.pi) - 1.0)),
        lower=0.0,
        length=2.0 * np.pi,
        end=1.0,
    )
    return solve_periodic("ReactionDiffusion", {"nu": nu, "rho": rho}, equation, modes=512, steps=24)
