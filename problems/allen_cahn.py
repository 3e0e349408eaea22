"""The Allen-Cahn equation, whose thin transitions sharpen in time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import cos, erfc, exp, sqrt
from pinn_lora.problem import Problem, initial, periodic
from pinn_lora.references.spectral import Periodic, solve_periodic


@dataclass(frozen=True)
class AllenCahn(Problem):
    """Allen-Cahn: u_t = D u_xx + rho (u - u^3) on x in [-1, 1], t in [0, 1], periodic, u(x, 0) = x^2 cos(pi x).

    form="ansatz": u = x^2 cos(pi x) + c(1 - x) + c(1 + x) + t n with n periodic in x. x^2 cos(pi x) has a kink at the period's
    ends, u_x jumps there by 4; c solves c_t = D c_ss, c = 0 at t = 0, c_s = -2 at s = 0, and so smooths it:
    c(s) = 2 (w / sqrt(pi) exp(-z^2) - s erfc z), z = s / w, w = 2 sqrt(D t). Without it u would keep the jump for ever, which
    is another problem. form="soft": u = n, both conditions as terms of the loss.
    Reference: Fourier series with 4,096 modes, ETDRK4 with 2,400 steps; the kink of u(x, 0) at the period's ends leaves a
    relative error of about 1e-6. Source: Raissi, Perdikaris & Karniadakis 2019, with D = 1e-4, rho = 5.
    """

    D: float = 1e-4
    rho: float = 5.0
    form: str = "ansatz"

    domain = Domain(x=(-1.0, 1.0), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.D) and self.D > 0):
            raise ValueError(f"AllenCahn: the diffusion D is {self.D}; it must be a positive number")
        if not math.isfinite(self.rho):
            raise ValueError(f"AllenCahn: the reaction rho is {self.rho}; it must be finite")
        choose(self.form, ["ansatz", "soft"], what="form of AllenCahn")

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "ansatz" else ()

    def residual(self, p, u):
        return u.t - self.D * u.xx - self.rho * (u - u**3)

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(_start), periodic(on="x", derivatives=1)]

    def ansatz(self, p, n):
        return (
            _start(p) + self._corner(1.0 - p.x, p.t) + self._corner(1.0 + p.x, p.t) + p.t * n
            if self.form == "ansatz"
            else n
        )

    def _corner(self, s, t):
        """c at a distance s from an end of the period; the instant 1e-12 stands for 0, where w = 0."""
        w = 2.0 * sqrt(self.D * (t + 1e-12))
        z = s / w
        return 2.0 * (w * exp(-(z * z)) / math.sqrt(math.pi) - s * erfc(z))

    def reference(self, p):
        return _solution(self.D, self.rho)(np.asarray(p.x), np.asarray(p.t)).real


def _start(p):
    return p.x**2 * cos(math.pi * p.x)


@lru_cache(maxsize=4)
def _solution(D: float, rho: float) -> Periodic:
    return solve_periodic(
        "allen_cahn",
        {"D": D, "rho": rho},
        symbol=lambda k: D * k**2 + rho,
        # a third power takes numpy five times as long as the transform, a square almost nothing
        nonlinear=lambda u, k: np.fft.fft(-rho * u.real**2 * u.real),
        start=lambda x: x**2 * np.cos(np.pi * x),
        lower=-1.0,
        length=2.0,
        end=1.0,
        modes=4096,
        steps=2400,
    )
