"""An Allen-Cahn equation in the unit ball of many dimensions, with a manufactured solution."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.ball import Ball
from pinn_lora.catalog import choose
from pinn_lora.jets import cos, exp, sin, sqrt
from pinn_lora.problem import Problem, dirichlet, initial
from pinn_lora.scalars import whole


@dataclass(frozen=True)
class AllenCahnBall(Problem):
    """Allen-Cahn in a ball: u_t - (u_x1x1 + ... + u_xdxd) - u + u^3 = f on |x| <= 1, t in [0, 1].

    u = 0 at |x| = 1, u(x, 0) given. Exact: u = exp(-t) (sin(pi/2 (1 - |x|)^2.5) + epsilon sin(pi/2 (1 - |x|^2))), which sets
    f: members of the family have close right-hand sides. form="ansatz": u = u(x, 0) + t (1 - |x|^2) n; form="soft": u = n.
    Source: the equation, in ten dimensions with close right-hand sides, is that of Gao, Cheung & Ng, SVD-PINNs, 2022; the
    solution for epsilon = 0 is Gu, Yang & Zhou's, SelectNet, 2021; the term with epsilon is ours.
    """

    epsilon: float = 0.0
    dimension: int = 10
    form: str = "ansatz"

    def __post_init__(self) -> None:
        if not math.isfinite(self.epsilon):
            raise ValueError(f"AllenCahnBall: epsilon is {self.epsilon}; it must be finite")
        object.__setattr__(self, "dimension", whole(self.dimension))
        if not (isinstance(self.dimension, int) and 2 <= self.dimension <= 20):
            raise ValueError(
                f"AllenCahnBall: the dimension is {self.dimension}; it must be a whole number from 2 to 20"
            )
        choose(self.form, ["ansatz", "soft"], what="form of AllenCahnBall")

    @property
    def names(self) -> list[str]:
        return [f"x{i + 1}" for i in range(self.dimension)]

    @property
    def domain(self) -> Ball:  # type: ignore[override]
        return Ball(self.names, t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t - u.laplacian() - u + u**3 - self._source(p)

    def conditions(self):
        return [] if self.form == "ansatz" else [initial(self._start), dirichlet(lambda p: 0.0, on="boundary")]

    def ansatz(self, p, n):
        return self._start(p) + p.t * (1.0 - self._square(p)) * n if self.form == "ansatz" else n

    def reference(self, p):
        return exp(-p.t) * self._start(p)

    def _square(self, p):
        return sum(getattr(p, name) ** 2 for name in self.names)

    def _start(self, p):
        square = self._square(p)
        s2 = (1.0 - sqrt(square)) ** 2  # squared, so that rounding on the sphere gives no power of a negative number
        return sin(0.5 * math.pi * s2**1.25) + self.epsilon * sin(0.5 * math.pi * (1.0 - square))

    def _source(self, p):
        """f, with the Laplacian g'' + (d - 1) g' / r of each part g(r)."""
        square = self._square(p)
        r = sqrt(square)
        s2, d = (1.0 - r) ** 2, self.dimension
        angle, slope = 0.5 * math.pi * s2**1.25, -1.25 * math.pi * s2**0.75
        first = cos(angle) * (1.875 * math.pi * s2**0.25 + (d - 1) * slope / r) - sin(angle) * slope**2
        angle = 0.5 * math.pi * (1.0 - square)
        second = -math.pi * d * cos(angle) - math.pi**2 * square * sin(angle)
        u, decay = self.reference(p), exp(-p.t)
        return -2.0 * u - decay * (first + self.epsilon * second) + u**3
