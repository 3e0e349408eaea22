"""The Kuramoto-Sivashinsky equation, of fourth order, on its way to chaos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import cos, sin
from pinn_lora.problem import Problem, initial, periodic
from pinn_lora.references.spectral import Equation, Periodic, solve_periodic


@dataclass(frozen=True)
class KuramotoSivashinsky(Problem):
    """Kuramoto-Sivashinsky: u_t + alpha u u_x + beta u_xx + gamma u_xxxx = 0 on x in [0, 2 pi], t in [0, 0.4], periodic.

    u(x, 0) = cos x (1 + sin x). Up to t = 0.4 the solution with the defaults is still smooth; later it is chaotic.
    form="ansatz": u = u(x, 0) + t n with n periodic in x; form="soft": u = n, both conditions as terms of the loss.
    Reference: Fourier series with 170 modes, ETDRK4 with 8,000 steps; its stated error is 2e-7 (some seconds once, a file of
    0.5 MB). Source: Wang, Sankaran & Perdikaris 2022.
    """

    alpha: float = 100 / 16
    beta: float = 100 / 16**2
    gamma: float = 100 / 16**4
    form: str = "ansatz"

    domain = Domain(x=(0.0, 2.0 * math.pi), t=(0.0, 0.4))

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"KuramotoSivashinsky: {name} is {getattr(self, name)}; it must be finite")
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ValueError(f"KuramotoSivashinsky: gamma is {self.gamma}; it must be a positive number")
        choose(self.form, ["ansatz", "soft"], what="form of KuramotoSivashinsky")

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "ansatz" else ()

    def residual(self, p, u):
        return u.t + self.alpha * u * u.x + self.beta * u.xx + self.gamma * u.xxxx

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(_start), periodic(on="x", derivatives=3)]

    def ansatz(self, p, n):
        return _start(p) + p.t * n if self.form == "ansatz" else n

    def reference(self, p):
        return _solution(self.alpha, self.beta, self.gamma)(np.asarray(p.x), np.asarray(p.t))

    def reference_error(self):
        return _solution(self.alpha, self.beta, self.gamma).error


def _start(p):
    return cos(p.x) * (1.0 + sin(p.x))


@lru_cache(maxsize=4)
def _solution(alpha: float, beta: float, gamma: float) -> Periodic:
    equation = Equation(
        symbol=lambda k: -beta * k**2 - gamma * k**4,
        nonlinear=lambda u: u**2,
        factor=lambda k: -0.5 * alpha * k,
        degree=2,
        start=lambda x: np.cos(x) * (1.0 + np.sin(x)),
        lower=0.0,
        length=2.0 * np.pi,
        end=0.4,
    )
    parameters = {"alpha": alpha, "beta": beta, "gamma": gamma}
    return solve_periodic("KuramotoSivashinsky", parameters, equation, modes=512, steps=50)
