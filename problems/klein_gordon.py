"""The Klein-Gordon equation with a cubic term and a manufactured solution."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import cos
from pinn_lora.problem import Problem, dirichlet, initial


@dataclass(frozen=True)
class KleinGordon(Problem):
    """Klein-Gordon: u_tt - u_xx + gamma u^3 = f on [0, 1]^2, with u(x, 0) = x, u_t(x, 0) = 0 and u given at x = 0 and 1.

    Exact: u = x cos(omega t) + (x t)^3, which sets f. form="ansatz": u = x (cos(omega t) + t^3) + t^2 x (1 - x) n;
    form="soft": u = n. Source: Wang, Teng & Perdikaris, SIAM J. Sci. Comput. 43, 2021, with omega = 5 pi, gamma = 1.
    """

    omega: float = 5.0 * math.pi
    gamma: float = 1.0
    form: str = "ansatz"

    domain = Domain(x=(0.0, 1.0), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        for name in ("omega", "gamma"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"KleinGordon: {name} is {getattr(self, name)}; it must be finite")
        choose(self.form, ["ansatz", "soft"], what="form of KleinGordon")

    def residual(self, p, u):
        u_tt = -(self.omega**2) * p.x * cos(self.omega * p.t) + 6.0 * p.x**3 * p.t
        f = u_tt - 6.0 * p.x * p.t**3 + self.gamma * self.reference(p) ** 3
        return u.tt - u.xx + self.gamma * u**3 - f

    def conditions(self):
        if self.form == "ansatz":
            return []
        return [initial(lambda p: p.x), initial(lambda p: 0.0, derivative=1), dirichlet(self.reference, on="x")]

    def ansatz(self, p, n):
        return p.x * (cos(self.omega * p.t) + p.t**3) + p.t**2 * p.x * (1.0 - p.x) * n if self.form == "ansatz" else n

    def reference(self, p):
        return p.x * cos(self.omega * p.t) + (p.x * p.t) ** 3
