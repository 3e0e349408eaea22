"""Viscous Burgers' equation, the standard test of a thin interior layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import roots_hermite

from pinn_lora.domain import Domain
from pinn_lora.fields import Coordinates
from pinn_lora.jets import sin
from pinn_lora.problem import Problem, dirichlet, initial

FORMS = ("ansatz", "soft")
CHANGE = 1e-12  # of u, by which the quadrature's last doubling of nodes changes it at most


@dataclass(frozen=True)
class Burgers(Problem):
    """Viscous Burgers: u_t + u u_x = nu u_xx on x in [-1, 1], t in [0, 1].

    u(x, 0) = -sin(pi x), u(-1, t) = u(1, t) = 0; nu > 0 is the viscosity.

    form="ansatz": u = -sin(pi x) + t n with n periodic in x; the solution is odd and of period 2, so that the periodic
    problem has the same one and no soft condition is left. form="soft": u = n, both conditions as terms of the loss.
    Reference: Cole-Hopf transform with Gauss-Hermite quadrature (Basdevant et al., Comput. Fluids 14, 1986).
    """

    nu: float = 0.01 / math.pi
    form: str = "ansatz"

    domain = Domain(x=(-1.0, 1.0), t=(0.0, 1.0))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.nu) and self.nu > 0):
            raise ValueError(f"Burgers: the viscosity nu is {self.nu}; it must be a positive number")
        if self.form not in FORMS:
            raise ValueError(f"Burgers: there is no form {self.form!r} (choices: {', '.join(FORMS)})")

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.form == "ansatz" else ()

    @property
    def layer_width(self) -> float:
        return self.nu  # the balance of u u_x and nu u_xx

    def residual(self, p, u):
        return u.t + u * u.x - self.nu * u.xx

    def conditions(self):
        if self.form == "ansatz":
            return []
        return [initial(lambda p: -sin(math.pi * p.x)), dirichlet(lambda p: 0.0, on="x")]

    def ansatz(self, p, n):
        return -sin(math.pi * p.x) + p.t * n if self.form == "ansatz" else n

    def reference(self, p: Coordinates) -> np.ndarray:
        """u at the points: as many nodes as change it by less than 1e-12 when doubled; ValueError where 4,096 do not."""
        x, t = np.asarray(p.x, dtype=np.float64), np.asarray(p.t, dtype=np.float64)
        nodes = 64
        coarse = _cole_hopf(x, t, self.nu, nodes)
        while nodes < 4096:
            nodes *= 2
            fine = _cole_hopf(x, t, self.nu, nodes)
            if np.max(np.abs(fine - coarse), initial=0.0) < CHANGE:
                return fine
            coarse = fine
        raise ValueError(
            f"Burgers: at nu = {self.nu:g} the Cole-Hopf quadrature does not converge with {nodes} nodes; "
            "choose a larger viscosity"
        )

    def reference_error(self):
        """The quadrature's last change over the root mean square of u."""
        u = self.reference_values(self.domain.grid(33)[1])
        return CHANGE / math.sqrt(np.mean(u**2))


@lru_cache(maxsize=8)
def _hermite(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    z, weights = roots_hermite(nodes)
    kept = weights > 0  # the outermost weights underflow from 380 nodes on: they add nothing
    return z[kept], np.log(weights[kept])


def _cole_hopf(x: np.ndarray, t: np.ndarray, nu: float, nodes: int) -> np.ndarray:
    """u = -sum w sin(pi y) f(y) / sum w f(y), y = x - sqrt(4 nu t) z, f(y) = exp(-cos(pi y) / (2 pi nu)).

    The exponents are added to the logarithms of the weights before their maximum is subtracted, so nothing overflows.
    """
    z, log_weights = _hermite(nodes)
    out = np.empty_like(x)
    for start in range(0, len(x), 4096):
        part = slice(start, start + 4096)
        y = x[part, None] - np.sqrt(4.0 * nu * t[part, None]) * z
        exponent = log_weights - np.cos(np.pi * y) / (2.0 * np.pi * nu)
        weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        out[part] = -(weights * np.sin(np.pi * y)).sum(axis=1) / weights.sum(axis=1)
    return out
