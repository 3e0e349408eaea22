"""Kovasznay flow: steady Navier-Stokes behind a grid, with an exact solution."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import cos, exp, sin
from pinn_lora.problem import Problem, dirichlet


@dataclass(frozen=True)
class Kovasznay(Problem):
    """Kovasznay: u u_x + v u_y + p_x = (u_xx + u_yy) / Re, u v_x + v v_y + p_y = (v_xx + v_yy) / Re, u_x + v_y = 0.

    On [-0.5, 1] x [-0.5, 1.5], u and v given on the boundary, p at x = 1. Exact: u = 1 - exp(l x) cos(2 pi y), v = l / (2 pi)
    exp(l x) sin(2 pi y), p = (1 - exp(2 l x)) / 2, l = Re / 2 - (Re^2 / 4 + 4 pi^2)^1/2. form="ansatz": u and v are the Coons
    patch of their boundary values, plus (x + 0.5)(1 - x)(y + 0.5)(1.5 - y) n, and p is its value at x = 1 plus (1 - x) n;
    form="soft": u, v, p = n. Source: Kovasznay, Proc. Camb. Phil. Soc. 44, 1948.
    """

    re: float = 20.0
    form: str = "ansatz"

    domain = Domain(x=(-0.5, 1.0), y=(-0.5, 1.5))
    fields = ("u", "v", "p")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.re) and self.re > 0):
            raise ValueError(f"Kovasznay: the Reynolds number re is {self.re}; it must be a positive number")
        choose(self.form, ["ansatz", "soft"], what="form of Kovasznay")

    @property
    def rate(self) -> float:
        """l, the rate at which the flow decays."""
        return 0.5 * self.re - math.sqrt(0.25 * self.re**2 + 4.0 * math.pi**2)

    def residual(self, p, u, v, pressure):
        momentum_x = u * u.x + v * u.y + pressure.x - u.laplacian() / self.re
        momentum_y = u * v.x + v * v.y + pressure.y - v.laplacian() / self.re
        return momentum_x, momentum_y, u.x + v.y

    def conditions(self):
        if self.form == "ansatz":
            return []
        walls = [
            dirichlet(lambda p, k=field: self._exact(p.x, p.y)[k], on=on, field=field)
            for field in (0, 1)
            for on in "xy"
        ]
        return [*walls, dirichlet(lambda p: self._exact(p.x, p.y)[2], on="x", side="upper", field=2)]

    def ansatz(self, p, n, m, q):
        if self.form == "soft":
            return n, m, q
        bubble = (p.x + 0.5) * (1.0 - p.x) * (p.y + 0.5) * (1.5 - p.y)
        u, v = self._coons(p, 0) + bubble * n, self._coons(p, 1) + bubble * m
        return u, v, 0.5 * (1.0 - math.exp(2.0 * self.rate)) + (1.0 - p.x) * q

    def reference(self, p):
        return self._exact(p.x, p.y)

    def _exact(self, x, y):
        wave = exp(self.rate * x)
        u = 1.0 - wave * cos(2.0 * math.pi * y)
        v = self.rate / (2.0 * math.pi) * wave * sin(2.0 * math.pi * y)
        return u, v, 0.5 * (1.0 - wave**2) + 0.0 * y

    def _coons(self, p, field):
        """The bilinearly blended surface through the boundary values of u or v."""
        (west, east), (south, north) = ((a, b) for a, b in zip(self.domain.lower, self.domain.upper, strict=True))
        s, t = (p.x - west) / (east - west), (p.y - south) / (north - south)
        value = lambda x, y: self._exact(x + 0.0 * p.x, y + 0.0 * p.y)[field]  # noqa: E731
        along = (1.0 - s) * value(west, p.y) + s * value(east, p.y)
        across = (1.0 - t) * value(p.x, south) + t * value(p.x, north)
        low = (1.0 - s) * value(west, south) + s * value(east, south)
        high = (1.0 - s) * value(west, north) + s * value(east, north)
        return along + across - (1.0 - t) * low - t * high
