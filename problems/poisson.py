"""Poisson's equation in any number of dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.domain import Domain
from pinn_lora.jets import sin
from pinn_lora.problem import Problem, dirichlet
from pinn_lora.scalars import whole


@dataclass(frozen=True)
class Poisson(Problem):
    """Poisson: -(u_x1x1 + ... + u_xdxd) = f on [-1, 1]^d, u given on the boundary.

    Exact: u = (sin(a pi x1) + ... + sin(a pi xd)) / d, which sets f = (a pi)^2 u. The boundary values are a soft condition on
    every face: from d = 2 on, the surface that blends them is the solution itself, so an ansatz of it would have nothing left
    to solve. Manufactured; d = 2 unless given.
    """

    dimension: int = 2
    a: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", whole(self.dimension))
        if not (isinstance(self.dimension, int) and 1 <= self.dimension <= 20):
            raise ValueError(f"Poisson: the dimension is {self.dimension}; it must be a whole number from 1 to 20")
        if not math.isfinite(self.a):
            raise ValueError(f"Poisson: a is {self.a}; it must be finite")

    @property
    def names(self) -> list[str]:
        return [f"x{i + 1}" for i in range(self.dimension)]

    @property
    def domain(self) -> Domain:  # type: ignore[override]
        return Domain(**dict.fromkeys(self.names, (-1.0, 1.0)))

    def residual(self, p, u):
        return u.laplacian() + (self.a * math.pi) ** 2 * self.reference(p)

    def conditions(self):
        return [dirichlet(self.reference, on=name) for name in self.names]

    def reference(self, p):
        return sum(sin(self.a * math.pi * getattr(p, name)) for name in self.names) / self.dimension
