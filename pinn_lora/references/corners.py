"""References on polygons by corner functions: -(u_xx + u_yy) + k u = 1, u = 0 on the boundary, and how far they are off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complexfloating[Any, Any]]
Real = NDArray[np.float64]
CORNER, LOGARITHMIC, SMOOTH = 30, 3, 40  # functions at a corner, at every corner, of the whole plane
FITTED, JUDGED = 300, 1777  # points on every edge that the fit sees, and that its error is taken at


@dataclass(frozen=True)
class PolygonSolution:
    """The solution on a polygon with those corners (counterclockwise, complex), and `error`: twice the largest
    value found on the boundary, where u = 0; between the points it was found at, up to 1.4 times that was seen."""

    corners: Complex
    k: float
    scales: Real
    coefficients: Real
    error: float

    def __call__(self, x: Real, y: Real) -> Real:
        """u (n,) at points in the polygon."""
        z = np.asarray(x) + 1j * np.asarray(y)
        return _particular(z, self.k) + _functions(z, self.corners, self.k) / self.scales @ self.coefficients


@lru_cache(maxsize=8)
def solve_polygon(vertices: tuple[tuple[float, float], ...], k: float) -> PolygonSolution:
    """u = P + sum c_j phi_j: P solves the equation, every phi_j the one without its right-hand side, and the c_j fit u = 0 on
    the boundary by least squares. k is at least 0: by the maximum principle u errs nowhere by more than on the boundary.

    With F_nu(r) = r^nu sum_m (k r^2 / 4)^m / (m! (nu + 1) ... (nu + m)), which is r^nu where k = 0, the phi_j are
    F_nu sin(nu theta), nu = j pi / omega, at corners of interior angle omega that no reflection makes smooth; d/dnu of
    F_nu exp(i nu theta), nu = 2, 4, 6, at every corner, where the right-hand side makes r^nu log r of them; and
    F_m exp(i m theta) around the middle. P = -sum_m k^(m - 1) (r^2 / 4)^m / m!^2.
    """
    corners: Complex = np.array([complex(*vertex) for vertex in vertices])
    if np.imag(corners.conj() * np.roll(corners, -1)).sum() < 0:
        corners = corners[::-1]
    z = _boundary(corners, FITTED)
    functions = _functions(z, corners, k)
    scales = np.abs(functions).max(axis=0)
    coefficients = np.linalg.lstsq(functions / scales, -_particular(z, k), rcond=1e-14)[0]
    z = _boundary(corners, JUDGED)
    left = _particular(z, k) + _functions(z, corners, k) / scales @ coefficients
    return PolygonSolution(corners, k, scales, coefficients, 2.0 * float(np.abs(left).max()))


def _boundary(corners: Complex, n: int) -> Complex:
    """n points on every edge, denser towards the corners."""
    t = 0.5 * (1.0 - np.cos(np.pi * (np.arange(n) + 0.5) / n))
    return np.concatenate([a + (b - a) * t for a, b in zip(corners, np.roll(corners, -1), strict=True)])


def _radial(nu: float, r: Real, k: float) -> tuple[Real, Real]:
    """F_nu(r) and dF_nu/dnu."""
    q, h, m = 0.25 * k * r**2, 0.0, 0
    term, total, slope = np.ones_like(r), np.ones_like(r), np.zeros_like(r)
    while term.max(initial=0.0) > 1e-17:
        m += 1
        term, h = term * q / (m * (nu + m)), h + 1.0 / (nu + m)
        total, slope = total + term, slope - h * term
    power, log = r**nu, np.log(np.where(r > 0, r, 1.0))
    return power * total, power * (total * log + slope)


def _particular(z: Complex, k: float) -> Real:
    term = total = 0.25 * np.abs(z) ** 2
    m = 1
    while k * np.abs(term).max(initial=0.0) > 1e-17:
        m += 1
        term = term * k * 0.25 * np.abs(z) ** 2 / m**2
        total = total + term
    return -total


def _functions(z: Complex, corners: Complex, k: float) -> Real:
    """phi_j (n, J) at points z (n,)."""
    found = []
    for corner, after, before in zip(corners, np.roll(corners, -1), np.roll(corners, 1), strict=True):
        omega = np.angle((before - corner) / (after - corner)) % (2 * np.pi)
        bisector = np.exp(1j * (np.angle(after - corner) + 0.5 * omega))  # angles are taken from it: no cut runs inside
        r, theta = np.abs(z - corner), np.angle((z - corner) / bisector)
        if abs(np.pi / omega - round(np.pi / omega)) > 1e-9:
            for j in range(1, CORNER + 1):
                nu = j * np.pi / omega
                found.append(_radial(nu, r, k)[0] * np.sin(nu * (theta + 0.5 * omega)))
        for nu in range(2, 2 * LOGARITHMIC + 1, 2):
            F, dF = _radial(nu, r, k)
            wave = (dF + 1j * theta * F) * np.exp(1j * nu * theta)
            found += [wave.real, wave.imag]
    middle = z - corners.mean()
    for m in range(SMOOTH + 1):
        wave = _radial(m, np.abs(middle), k)[0] * np.exp(1j * m * np.angle(middle))
        found += [wave.real, wave.imag] if m else [wave.real]
    return np.stack(found, axis=1)
