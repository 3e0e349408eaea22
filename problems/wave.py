"""The wave equation with two standing waves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import cos, sin
from pinn_lora.problem import Problem, dirichlet, initial


@dataclass(frozen=True)
class Wave(Problem):
    """Wave: u_tt = c^2 u_xx on [0, 1]^2, u = 0 at x = 0 and 1, u(x, 0) = sin(pi x) + sin(4 pi x) / 2, u_t(x, 0) = 0.

    Exact: u = sin(pi x) cos(c pi t) + sin(4 pi x) cos(4 c pi t) / 2. form="ansatz": u = u(x, 0) + t^2 x (1 - x) n;
    form="soft": u = n. Source: Wang, Yu & Perdikaris, J. Comput. Phys. 449, 2022, with c = 2.
    """

    c: float = 2.0
    form: str = "ansatz"

    domain = Domain(x=(0.0, 1.0), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        if not math.isfinite(self.c):
            raise ValueError(f"Wave: the speed c is {self.c}; it must be finite")
        choose(self.form, ["ansatz", "soft"], what="form of Wave")

    def residual(self, p, u):
        return u.tt - self.c**2 * u.xx

    def conditions(self):
        if self.form == "ansatz":
            return []
        return [initial(_start), initial(lambda p: 0.0, derivative=1), dirichlet(lambda p: 0.0, on="x")]

    def ansatz(self, p, n):
        return _start(p) + p.t**2 * p.x * (1.0 - p.x) * n if self.form == "ansatz" else n

    def reference(self, p):
        slow, fast = cos(self.c * math.pi * p.t), cos(4.0 * self.c * math.pi * p.t)
        return sin(math.pi * p.x) * slow + 0.5 * sin(4.0 * math.pi * p.x) * fast


def _start(p):
    return sin(math.pi * p.x) + 0.5 * sin(4.0 * math.pi * p.x)
