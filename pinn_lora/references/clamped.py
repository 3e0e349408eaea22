"""Steady flow in a closed unit square by its stream function, in Legendre polynomials that are clamped at the walls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from pinn_lora.references import accurate, kept

Real = NDArray[np.floating[Any]]
NEWTON_STEPS = 30
VERSION = 1  # of what is kept on disk: a change of the solver counts it up


def clamped(n: int, x: Real, order: int) -> Real:
    """The first n polynomials on [0, 1] with value and slope 0 at both ends, differentiated `order` times, (n, len(x)): Shen's
    combinations of three Legendre polynomials, whose second derivatives are orthogonal."""
    k = np.arange(n)
    C = np.zeros((n + 4, n))
    C[k, k], C[k + 2, k], C[k + 4, k] = 1.0, -2.0 * (2 * k + 5) / (2 * k + 7), (2 * k + 3) / (2 * k + 7)
    C /= np.sqrt(2.0 * (2 * k + 3) ** 2 * (2 * k + 5))
    return 2.0**order * legendre.legval(2.0 * x - 1.0, legendre.legder(C, order))


def full(n: int, x: Real, order: int) -> Real:
    """The first n Legendre polynomials on [0, 1], differentiated `order` times, (n, len(x))."""
    return 2.0**order * legendre.legval(2.0 * x - 1.0, legendre.legder(np.eye(n), order))


@dataclass(frozen=True)
class Lid:
    """psi = g(x) (y^3 - y^2), g a polynomial with value and slope 0 at both ends: u = g(x) at the wall y = 1, at rest at the
    others."""

    g: np.polynomial.Polynomial

    def psi(self, x: Real, y: Real, i: int, j: int) -> Real:
        """Its derivative of order i in x and j in y."""
        h = np.polynomial.Polynomial([0.0, 0.0, -1.0, 1.0])
        return (self.g.deriv(i) if i else self.g)(x) * (h.deriv(j) if j else h)(y)


@dataclass(frozen=True)
class CavityFlow:
    """psi = lid + sum_jk c_jk phi_j(x) phi_k(y), u = psi_y, v = -psi_x, and p = sum_jk d_jk P_j(x) P_k(y) with p = 0 at the
    centre; `error`, the relative L2 distance of (u, v, p) from the solution with four polynomials fewer in each direction: a
    bound on its own."""

    lid: Lid
    psi: Real
    pressure: Real
    error: float

    def derivative(self, x: Real, y: Real, i: int, j: int) -> Real:
        """d^i/dx^i d^j/dy^j psi at the points (n,)."""
        return _sum(self.psi, clamped, x, y, i, j) + self.lid.psi(x, y, i, j)

    def __call__(self, x: Real, y: Real) -> tuple[Real, Real, Real]:
        """u, v and p at the points (n,)."""
        p = lambda x, y: _sum(self.pressure, full, x, y, 0, 0)  # noqa: E731
        centre = np.array([0.5])
        return self.derivative(x, y, 0, 1), -self.derivative(x, y, 1, 0), p(x, y) - p(centre, centre)


def _sum(c: Real, basis: Callable[[int, Real, int], Real], x: Real, y: Real, i: int, j: int) -> Real:
    return np.einsum("jm,jm->m", c @ basis(c.shape[1], y, j), basis(c.shape[0], x, i))


def solve_cavity(re: float, lid: Lid, n: int = 36) -> CavityFlow:
    """The flow at Reynolds number `re` with n x n polynomials; kept on disk. ValueError where Newton's method, led
    there by slower flows, does not converge, and where the error is too large to judge by."""

    def make() -> dict[str, Any]:
        fine, coarse = (CavityFlow(lid, *_solve(re, lid, size), np.nan) for size in (n, n - 4))
        x, y = (a.ravel() for a in np.meshgrid(np.linspace(0.0, 1.0, 101), np.linspace(0.0, 1.0, 101)))
        found, near = np.concatenate(fine(x, y)), np.concatenate(coarse(x, y))
        error = np.linalg.norm(found - near) / np.linalg.norm(found)
        return {"psi": fine.psi, "pressure": fine.pressure, "error": error}

    held = kept("Cavity", {"re": re, "lid": lid.g.coef.tolist(), "n": n}, make, version=VERSION)
    error = accurate("Cavity", {"re": re}, float(held["error"]))
    return CavityFlow(lid, held["psi"], held["pressure"], error)


def _solve(re: float, lid: Lid, n: int) -> tuple[Real, Real]:
    """psi's coefficients by Newton's method on (lap psi, lap phi) / re + (lap psi, psi_y phi_x - psi_x phi_y) = 0 for every
    phi, and the pressure's by least squares on grad p = lap(u, v) / re - (u, v) . grad (u, v)."""
    x, w = legendre.leggauss(3 * n // 2 + 6)
    x = 0.5 * (x + 1.0)
    W = 0.25 * np.outer(w, w).ravel()

    def at_nodes(i: int, j: int) -> Real:
        return np.einsum("jx,ky->jkxy", clamped(n, x, i), clamped(n, x, j)).reshape(n * n, -1)

    X, Y = (a.ravel() for a in np.meshgrid(x, x, indexing="ij"))
    phi_x, phi_y, lap = at_nodes(1, 0), at_nodes(0, 1), at_nodes(2, 0) + at_nodes(0, 2)
    lid_x, lid_y, lid_lap = lid.psi(X, Y, 1, 0), lid.psi(X, Y, 0, 1), lid.psi(X, Y, 2, 0) + lid.psi(X, Y, 0, 2)
    weighted, c = lap * W, np.zeros(n * n)
    stiffness = weighted @ lap.T
    steps = [
        re * 0.5**k for k in range(max(0, math.ceil(math.log2(re / 100.0))), -1, -1)
    ]  # from slower flows to this one
    for now in steps + [re] * NEWTON_STEPS:
        psi_x, psi_y, omega = c @ phi_x + lid_x, c @ phi_y + lid_y, c @ lap + lid_lap
        carried = (psi_y * phi_x - psi_x * phi_y) * W
        r = weighted @ omega / now + carried @ omega
        turned = (phi_x * (W * omega)) @ phi_y.T
        step = np.linalg.solve(stiffness / now + carried @ lap.T + turned - turned.T, -r)
        c = c + step
        if now == re and np.abs(step).max() < 1e-10 * np.abs(c).max():
            break
    else:
        raise ValueError(
            f"the reference of the cavity did not converge at the Reynolds number {re}; take a smaller one"
        )
    flow = CavityFlow(lid, c.reshape(n, n), np.zeros((1, 1)), np.nan)
    return flow.psi, _pressure(flow, re, n, x, W)


def _pressure(flow: CavityFlow, re: float, n: int, x: Real, W: Real) -> Real:
    X, Y = (a.ravel() for a in np.meshgrid(x, x, indexing="ij"))
    d = lambda i, j: flow.derivative(X, Y, i, j)  # noqa: E731
    u, v = d(0, 1), -d(1, 0)
    force_x = (d(2, 1) + d(0, 3)) / re - (u * d(1, 1) + v * d(0, 2))
    force_y = -(d(3, 0) + d(1, 2)) / re - (u * -d(2, 0) + v * -d(1, 1))
    P_x, P_y = (np.einsum("jx,ky->jkxy", full(n, x, i), full(n, x, 1 - i)).reshape(n * n, -1) for i in (1, 0))
    normal = (P_x * W) @ P_x.T + (P_y * W) @ P_y.T
    found = np.linalg.solve(normal[1:, 1:], (P_x * W @ force_x + P_y * W @ force_y)[1:])  # the constant is free
    return np.concatenate([[0.0], found]).reshape(n, n)
