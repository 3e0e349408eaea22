"""The Korteweg-de Vries equation: a cosine breaks into solitons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import cos
from pinn_lora.problem import Problem, initial, periodic
from pinn_lora.references.spectral import Equation, Periodic, solve_periodic


@dataclass(frozen=True)
class KdV(Problem):
    """Korteweg-de Vries: u_t + u u_x + delta^2 u_xxx = 0 on x in [-1, 1], t in [0, 1], periodic, u(x, 0) = cos(pi x).

    form="ansatz": u = cos(pi x) + t n with n periodic in x; form="soft": u = n, both conditions as terms of the loss.
    Reference: Fourier series with 341 modes, Lawson's Runge-Kutta 4 with 10,240 steps; its stated error is 2e-8, 2e-10 at
    delta = 0.05, and it is refused at delta = 0.006 (some seconds once, a file of 1 MB). Source: Zabusky & Kruskal
    1965, delta = 0.022.
    """

    delta: float = 0.022
    form: str = "ansatz"

    domain = Domain(x=(-1.0, 1.0), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise ValueError(f"KdV: the dispersion delta is {self.delta}; it must be a positive number")
        choose(self.form, ["ansatz", "soft"], what="form of KdV")

    @property
    def layer_width(self) -> float:
        return self.delta

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "ansatz" else ()

    def residual(self, p, u):
        return u.t + u * u.x + self.delta**2 * u.xxx

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(_start), periodic(on="x", derivatives=2)]

    def ansatz(self, p, n):
        return _start(p) + p.t * n if self.form == "ansatz" else n

    def reference(self, p):
        return _solution(self.delta)(np.asarray(p.x), np.asarray(p.t))

    def reference_error(self):
        return _solution(self.delta).error


def _start(p):
    return cos(math.pi * p.x)


@lru_cache(maxsize=4)
def _solution(delta: float) -> Periodic:
    equation = Equation(
        symbol=lambda k: -(delta**2) * k**3,
        nonlinear=lambda u: u**2,
        factor=lambda k: -0.5 * k,
        degree=2,
        start=lambda x: np.cos(np.pi * x),
        lower=-1.0,
        length=2.0,
        end=1.0,
    )
    return solve_periodic("KdV", {"delta": delta}, equation, modes=1024, steps=64)
