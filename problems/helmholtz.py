"""The Helmholtz equation with a manufactured solution of two wave numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import sin
from pinn_lora.problem import Problem, dirichlet
from pinn_lora.scalars import whole


@dataclass(frozen=True)
class Helmholtz(Problem):
    """Helmholtz in two dimensions: u_xx + u_yy + k^2 u = q on [-1, 1]^2, u = 0 on the boundary.

    Exact: u = sin(a1 pi x) sin(a2 pi y), a1 and a2 whole, which sets q = (k^2 - (a1 pi)^2 - (a2 pi)^2) u.
    form="ansatz": u = (1 - x^2)(1 - y^2) n, no soft condition is left. form="soft": u = n. Source: Wang, Teng & Perdikaris,
    SIAM J. Sci. Comput. 43, 2021, with (a1, a2) = (1, 4), k = 1.
    """

    k: float = 1.0
    a1: int = 1
    a2: int = 4
    form: str = "ansatz"

    domain = Domain(x=(-1.0, 1.0), y=(-1.0, 1.0))

    def __post_init__(self) -> None:
        for name in ("a1", "a2"):
            value = whole(getattr(self, name))
            object.__setattr__(self, name, value)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"Helmholtz: {name} is {value}; it must be a whole number, at least 1")
        if not math.isfinite(self.k):
            raise ValueError(f"Helmholtz: the wave number k is {self.k}; it must be finite")
        choose(self.form, ["ansatz", "soft"], what="form of Helmholtz")

    def residual(self, p, u):
        factor = self.k**2 - (self.a1 * math.pi) ** 2 - (self.a2 * math.pi) ** 2
        return u.laplacian() + self.k**2 * u - factor * self.reference(p)

    def conditions(self):
        return [] if self.form == "ansatz" else [dirichlet(lambda p: 0.0, on="x"), dirichlet(lambda p: 0.0, on="y")]

    def ansatz(self, p, n):
        return (1.0 - p.x**2) * (1.0 - p.y**2) * n if self.form == "ansatz" else n

    def reference(self, p):
        return sin(self.a1 * math.pi * p.x) * sin(self.a2 * math.pi * p.y)
