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
from pinn_lora.references.spectral import Equation, Periodic, solve_periodic

LARGEST = 100.0  # the diffusion up to which the ansatz is written: 60 pairs of corner layers


@dataclass(frozen=True)
class AllenCahn(Problem):
    """Allen-Cahn: u_t = D u_xx + rho (u - u^3) on x in [-1, 1], t in [0, 1], periodic, u(x, 0) = x^2 cos(pi x).

    form="ansatz": u = x^2 cos(pi x) + c(1 - x) + c(1 + x) + t n with n periodic in x. x^2 cos(pi x) has a kink at the period's
    ends, u_x jumps there by 4; c solves c_t = D c_ss, c = 0 at t = 0, c_s = -2 at s = 0, and so smooths it:
    c(s) = 2 (w / sqrt(pi) exp(-z^2) - s erfc z), z = s / w, w = 2 sqrt(D t). Without it u would keep the jump for ever, which
    is another problem. From D = 0.03 on c reaches across the period, and c(3 - x) + c(3 + x) + ... of the next ones are added,
    6 sqrt(D) in all. form="soft": u = n, both conditions as terms of the loss.
    Reference: Fourier series with 1,536 modes, ETDRK4 with 2,560 steps; its stated error is 1e-9, 5e-12 at D = 1e-3 (some
    seconds once, a file of 4 MB). Source: Raissi, Perdikaris & Karniadakis 2019, with D = 1e-4, rho = 5.
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
        if self.form == "ansatz" and self.D > LARGEST:
            few = f"the ansatz is made for diffusions D up to {LARGEST:g}"
            raise ValueError(f"AllenCahn: the diffusion D is {self.D}; {few}, and form='soft' for all")

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "ansatz" else ()

    def residual(self, p, u):
        return u.t - self.D * u.xx - self.rho * (u - u**3)

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(_start), periodic(on="x", derivatives=1)]

    def ansatz(self, p, n):
        if self.form == "soft":
            return n
        smoothed = _start(p)
        for j in range(max(1, math.ceil(6.0 * math.sqrt(self.D)))):  # the next is below erfc(6) = 2e-17 of the first
            smoothed = smoothed + self._corner(2 * j + 1 - p.x, p.t) + self._corner(2 * j + 1 + p.x, p.t)
        return smoothed + p.t * n

    def _corner(self, s, t):
        """c at a distance s from an end of the period; the instant 1e-12 stands for 0, where w = 0."""
        w = 2.0 * sqrt(self.D * (t + 1e-12))
        z = s / w
        return 2.0 * (w * exp(-(z * z)) / math.sqrt(math.pi) - s * erfc(z))

    def reference(self, p):
        return _solution(self.D, self.rho)(np.asarray(p.x), np.asarray(p.t))

    def reference_error(self):
        return _solution(self.D, self.rho).error


def _start(p):
    return p.x**2 * cos(math.pi * p.x)


@lru_cache(maxsize=4)
def _solution(D: float, rho: float) -> Periodic:
    equation = Equation(
        symbol=lambda k: D * k**2 + rho,
        nonlinear=lambda u: -rho * u**2 * u,  # a third power takes numpy five times as long as the transform
        degree=3,
        start=lambda x: x**2 * np.cos(np.pi * x),
        lower=-1.0,
        length=2.0,
        end=1.0,
    )
    return solve_periodic("AllenCahn", {"D": D, "rho": rho}, equation, modes=6144, steps=16)
