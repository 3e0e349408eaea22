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
from pinn_lora.references.spectral import Periodic, solve_periodic


@dataclass(frozen=True)
class Schroedinger(Problem):
    """Schroedinger: i h_t + h_xx / 2 + kappa |h|^2 h = 0 on x in [-5, 5], t in [0, pi / 2], periodic, h(x, 0) = 2 sech x.

    Fields u and v with h = u + i v: u_t + v_xx / 2 + kappa (u^2 + v^2) v = 0, v_t - u_xx / 2 - kappa (u^2 + v^2) u = 0.
    form="periodic": u = n and v = m, periodic in x, and the start as terms of the loss; it cannot be built in beside them:
    2 sech x has a kink at the period's ends, which 2 sech x + t n would keep for ever. form="soft": u = n, v = m, all
    conditions as terms of the loss. Reference: Fourier series with 2,048 modes, ETDRK4 with 4,000 steps; the kink's ripples
    leave a relative error of about 1e-5. Source: Raissi, Perdikaris & Karniadakis 2019, with kappa = 1.
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
        return h.real, h.imag


def _start(p):
    return 4.0 / (exp(p.x) + exp(-p.x))


@lru_cache(maxsize=4)
def _solution(kappa: float) -> Periodic:
    return solve_periodic(
        "schroedinger",
        {"kappa": kappa},
        symbol=lambda k: 0.5j * k**2,
        nonlinear=lambda h, k: np.fft.fft(1j * kappa * np.abs(h) ** 2 * h),
        start=lambda x: 2.0 / np.cosh(x),
        lower=-5.0,
        length=10.0,
        end=math.pi / 2,
        modes=2048,
        steps=4000,
    )
