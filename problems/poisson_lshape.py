"""Poisson's equation on an L-shape, with absorption: a corner that makes the solution rough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinn_lora.dde.geometry import GeometryDomain
from pinn_lora.dde.load import load_deepxde
from pinn_lora.problem import Problem, dirichlet
from pinn_lora.references.corners import PolygonSolution, solve_polygon

CORNERS = ((0.0, 0.0), (1.0, 0.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0), (0.0, 1.0))
ACCURATE = 1e-8  # what the reference may err by, f being 1


@dataclass(frozen=True)
class PoissonLShape(Problem):
    """Poisson with absorption: -(u_xx + u_yy) + k u = f on [-1, 1]^2 without [0, 1]^2, u = 0 on the boundary; f constant.

    The domain is a polygon of DeepXDE; the boundary values are a soft condition: an analytic factor that is 0 on the two edges
    of the inner corner is 0 on their continuations inside, too. At that corner u grows like r^(2/3).
    Reference: corner functions fitted on the boundary, off by at most 1e-12 at k = 0 and refused above 1e-8 (from
    somewhere between k = 40 and 50 on: rounding decides). Source: DeepXDE's example Poisson_Lshape, with f = 1, k = 0.
    """

    f: float = 1.0
    k: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.f) and self.f != 0):
            raise ValueError(f"PoissonLShape: f is {self.f}; it must be a number other than 0")
        if not (math.isfinite(self.k) and self.k >= 0):
            raise ValueError(f"PoissonLShape: the absorption k is {self.k}; it must be a number, at least 0")

    @property
    def domain(self) -> GeometryDomain:  # type: ignore[override]
        return _domain()

    def residual(self, p, u):
        return u.laplacian() - self.k * u + self.f

    def conditions(self):
        return [dirichlet(lambda p: 0.0, on="boundary")]

    def reference(self, p):
        return self.f * _solution(float(self.k))(np.asarray(p.x), np.asarray(p.y))

    def reference_error(self):
        solution, (x, y) = _solution(float(self.k)), self.domain.sample(1000, seed=0).numpy().T
        return float(solution.error / np.sqrt(np.mean(solution(x, y) ** 2)))


@lru_cache(maxsize=1)
def _domain() -> GeometryDomain:
    return GeometryDomain(load_deepxde().geometry.Polygon(CORNERS), names=("x", "y"))


def _solution(k: float) -> PolygonSolution:
    found = solve_polygon(CORNERS, k)
    if not found.error < ACCURATE:
        raise ValueError(f"PoissonLShape: at k = {k:g} the reference may err by {found.error:.0e}; choose a smaller k")
    return found
