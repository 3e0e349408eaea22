"""The nonlinear Schroedinger equation: two fields, one complex wave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import exp
from pinn_lora.problem import Problem, initial, periodic
from pinn_lora.references.spectral import Equation, Periodic, solve_periodic


@dataclass(frozen=True)
class Schroedinger(Problem):
    """Schroedinger: i h_t + h_xx / 2 + kappa |h|^2 h = 0 on x in [-5, 5], t in [0, pi / 2], periodic, h(x, 0) = 2 sech x.

    Fields u and v with h = u + i v: u_t + v_xx / 2 + kappa (u^2 + v^2) v = 0, v_t - u_xx / 2 - kappa (u^2 + v^2) u = 0.
    form="periodic": u = n and v = m, periodic in x, and the start as terms of the loss; it cannot be built in beside them:
    2 sech x has a kink at the period's ends, which 2 sech x + t n would keep for ever. form="soft": u = n, v = m, all
    conditions as terms of the loss. Reference: Fourier series with 512 modes, Lawson's Runge-Kutta 4 with 3,840 steps; the
    kink's ripples, which nothing damps, leave a stated error of 3e-6 (some seconds once, a file of 3 MB). Source: Raissi,
    Perdikaris & Karniadakis 2019, with kappa = 1.
    """

    kappa: float = 1.0
    form: str = "periodic"

    domain = Domain(x=(-5.0, 5.0), t=(0.0, math.pi / 2))
    fields = ("u", "v")

    def __post_init__(self) -> None:
        if not math.isfinite(self.kappa):
            raise ValueError(f"Schroedinger: kappa is {self.kappa}; it must be finite")
        choose(self.form, ["periodic", "soft"], what="form of Schroedinger")

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "periodic" else ()

    def residual(self, p, u, v):
        strength = self.kappa * (u**2 + v**2)
        return u.t + 0.5 * v.xx + strength * v, v.t - 0.5 * u.xx - strength * u

    def conditions(self):
        starts = [initial(_start), initial(lambda p: 0.0, field=1)]
        ends = [periodic(on="x", derivatives=1, field=field) for field in range(2)]
        return starts if self.form == "periodic" else [*starts, *ends]

    def reference(self, p):
        h = _solution(self.kappa)(np.asarray(p.x), np.asarray(p.t))
        return np.real(h), np.imag(h)

    def reference_error(self):
        return _solution(self.kappa).error


def _start(p):
    return 4.0 / (exp(p.x) + exp(-p.x))


@lru_cache(maxsize=4)
def _solution(kappa: float) -> Periodic:
    equation = Equation(
        symbol=lambda k: 0.5j * k**2,
        nonlinear=lambda h: 1j * kappa * np.abs(h) ** 2 * h,
        degree=3,
        start=lambda x: 2.0 / np.cosh(x) + 0j,
        lower=-5.0,
        length=10.0,
        end=math.pi / 2,
    )
    return solve_periodic("Schroedinger", {"kappa": kappa}, equation, modes=2048, steps=24)
