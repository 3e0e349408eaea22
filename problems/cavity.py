"""The lid-driven cavity: steady Navier-Stokes in a closed square."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.problem import Problem, data, dirichlet
from pinn_lora.references.clamped import CavityFlow, Lid, solve_cavity


@dataclass(frozen=True)
class Cavity(Problem):
    """Cavity: u u_x + v u_y + p_x = (u_xx + u_yy) / Re, u v_x + v v_y + p_y = (v_xx + v_yy) / Re, u_x + v_y = 0 on [0, 1]^2.

    At rest on three walls, u = 16 x^2 (1 - x)^2 at y = 1: the regularised lid, which leaves no jump in the corners. p = 0 at
    the centre, always a term of the loss. form="ansatz": u = 16 x^2 (1 - x)^2 y^2 + b n, v = b m, p = q with
    b = 16 x (1 - x) y (1 - y); form="soft": all is in the loss. Reference: stream function in 36 x 36 clamped Legendre
    polynomials by Newton's method; it states its error. Source: Shen, J. Comput. Phys. 95, 1991 (the lid); SIAM J. Sci.
    Comput. 15, 1994 (the polynomials).
    """

    re: float = 100.0
    form: str = "ansatz"

    domain = Domain(x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("u", "v", "p")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.re) and self.re > 0):
            raise ValueError(f"Cavity: the Reynolds number re is {self.re}; it must be a positive number")
        choose(self.form, ["ansatz", "soft"], what="form of Cavity")

    def residual(self, p, u, v, pressure):
        momentum_x = u * u.x + v * u.y + pressure.x - u.laplacian() / self.re
        momentum_y = u * v.x + v * v.y + pressure.y - v.laplacian() / self.re
        return momentum_x, momentum_y, u.x + v.y

    def conditions(self):
        gauge = data([[0.5, 0.5]], [0.0], field=2)
        if self.form == "ansatz":
            return [gauge]
        sides = [dirichlet(lambda p: 0.0, on="x", field=field) for field in (0, 1)]
        floor = dirichlet(lambda p: _lid(p.x) * p.y, on="y")
        return [*sides, floor, dirichlet(lambda p: 0.0, on="y", field=1), gauge]

    def ansatz(self, p, n, m, q):
        if self.form == "soft":
            return n, m, q
        b = 16.0 * p.x * (1.0 - p.x) * p.y * (1.0 - p.y)
        return _lid(p.x) * p.y**2 + b * n, b * m, q

    def reference(self, p):
        return _solution(self.re)(np.asarray(p.x), np.asarray(p.y))

    def reference_error(self):
        return _solution(self.re).error


def _lid(x):
    return 16.0 * x**2 * (1.0 - x) ** 2


@lru_cache(maxsize=4)
def _solution(re: float) -> CavityFlow:
    return solve_cavity(re, Lid(np.polynomial.Polynomial([0.0, 0.0, 16.0, -32.0, 16.0])))
