"""Logistic growth from a bump, point by point."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import exp
from pinn_lora.problem import Problem, initial


@dataclass(frozen=True)
class Reaction(Problem):
    """Reaction: u_t = rho u (1 - u) on x in [0, 2 pi], t in [0, 1], u(x, 0) = b(x) = exp(-8 (x - pi)^2 / pi^2).

    Exact: u = b e^(rho t) / (b e^(rho t) + 1 - b). form="ansatz": u = b + t n; form="soft": u = n. Source: Krishnapriyan et
    al., NeurIPS 2021, with rho = 5; there is no derivative in x, so no condition at its ends.
    """

    rho: float = 5.0
    form: str = "ansatz"

    domain = Domain(x=(0.0, 2.0 * math.pi), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        if not math.isfinite(self.rho):
            raise ValueError(f"Reaction: the rate rho is {self.rho}; it must be finite")
        choose(self.form, ["ansatz", "soft"], what="form of Reaction")

    def residual(self, p, u):
        return u.t - self.rho * u * (1.0 - u)

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(_bump)]

    def ansatz(self, p, n):
        return _bump(p) + p.t * n if self.form == "ansatz" else n

    def reference(self, p):
        b, growth = _bump(p), exp(self.rho * p.t)
        return b * growth / (b * growth + 1.0 - b)


def _bump(p):
    return exp(-8.0 / math.pi**2 * (p.x - math.pi) ** 2)
