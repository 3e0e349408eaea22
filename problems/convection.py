"""Linear convection, hard for plain networks at high speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.catalog import choose
from pinn_lora.domain import Domain
from pinn_lora.jets import sin
from pinn_lora.problem import Problem, initial, periodic


@dataclass(frozen=True)
class Convection(Problem):
    """Convection: u_t + beta u_x = 0 on x in [0, 2 pi], t in [0, 1], periodic, u(x, 0) = sin x.

    Exact: u = sin(x - beta t). form="ansatz": u = sin x + t n with n periodic in x; form="soft": u = n, both conditions as
    terms of the loss. Source: Krishnapriyan et al., NeurIPS 2021, with beta = 30.
    """

    beta: float = 30.0
    form: str = "ansatz"

    domain = Domain(x=(0.0, 2.0 * math.pi), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        if not math.isfinite(self.beta):
            raise ValueError(f"Convection: the speed beta is {self.beta}; it must be finite")
        choose(self.form, ["ansatz", "soft"], what="form of Convection")

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "ansatz" else ()

    def residual(self, p, u):
        return u.t + self.beta * u.x

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(lambda p: sin(p.x)), periodic(on="x", derivatives=0)]

    def ansatz(self, p, n):
        return sin(p.x) + p.t * n if self.form == "ansatz" else n

    def reference(self, p):
        return sin(p.x - self.beta * p.t)
