"""References by Fourier series: periodic equations u_t = L u + N(u), integrated once to a stated accuracy and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pinn_lora.references import kept

Complex = NDArray[np.complexfloating[Any, Any]]
Real = NDArray[np.float64]
SPACING = (
    400  # intervals between the instants that are held; interpolation over six of them errs by less than the solution
)


def etdrk4(
    linear: Complex,
    nonlinear: Callable[[Complex], Complex],
    start: Complex,
    *,
    end: float,
    steps: int,
    held: int = SPACING,
) -> Complex:
    """Spectra (held + 1, K) at equal times from 0 to `end` of dv/dt = linear v + nonlinear(v), v(0) = start (K,), complex.

    Exponential time differencing with Runge-Kutta 4 (Cox & Matthews 2002); its coefficients by a mean over 32 points of a
    circle around each h L (Kassam & Trefethen 2005), which no cancellation touches. `steps` is a multiple of `held`.
    """
    if steps % held:
        raise ValueError(f"steps is {steps}; it must be a multiple of the {held} intervals that are held")
    h = end / steps
    z = h * linear
    circle = np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 16)
    r = z[:, None] + circle
    whole, half = np.exp(z), np.exp(z / 2)
    q = h * np.mean((np.exp(r / 2) - 1) / r, axis=1)
    a = h * np.mean((-4 - r + np.exp(r) * (4 - 3 * r + r**2)) / r**3, axis=1)
    b = h * np.mean((2 + r + np.exp(r) * (r - 2)) / r**3, axis=1)
    c = h * np.mean((-4 - 3 * r - r**2 + np.exp(r) * (4 - r)) / r**3, axis=1)
    v = start.astype(complex)
    found = [v]
    for step in range(1, steps + 1):
        n1 = nonlinear(v)
        first = half * v + q * n1
        n2 = nonlinear(first)
        second = half * v + q * n2
        n3 = nonlinear(second)
        third = half * first + q * (2 * n3 - n1)
        n4 = nonlinear(third)
        v = whole * v + a * n1 + 2 * b * (n2 + n3) + c * n4
        if step % (steps // held) == 0:
            found.append(v)
    return np.array(found)


@dataclass(frozen=True)
class Periodic:
    """A solution on a period from `lower`, of that `length`: Fourier coefficients (T, N) at equal times from 0 to `end`, and
    `error`, its relative L2 distance from one of half the modes and half the steps: a bound on its own."""

    lower: float
    length: float
    end: float
    spectra: Complex
    error: float

    def __call__(self, x: Real, t: Real) -> Complex:
        """Complex values (n,): the series at x, six-point interpolation in t."""
        out = np.empty(len(x), dtype=complex)
        instants, place = np.unique(t, return_inverse=True)
        k = np.fft.fftfreq(self.spectra.shape[1], 1.0 / self.spectra.shape[1])
        for number, instant in enumerate(instants):
            where = np.flatnonzero(place == number)
            spectrum = self._at(instant)
            kept = np.abs(spectrum) > 1e-17 * np.abs(spectrum).max()
            for part in np.array_split(where, max(1, len(where) // 2048)):
                waves = np.exp(2j * np.pi / self.length * np.outer(x[part] - self.lower, k[kept]))
                out[part] = waves @ spectrum[kept]
        return out

    def _at(self, t: float) -> Complex:
        intervals = len(self.spectra) - 1
        place = t / self.end * intervals
        first = int(np.clip(np.floor(place) - 2, 0, intervals - 5))
        nodes = np.arange(first, first + 6)
        weights = [np.prod([(place - m) / (n - m) for m in nodes if m != n]) for n in nodes]
        return np.tensordot(weights, self.spectra[nodes], 1)


def solve_periodic(
    name: str,
    parameters: Mapping[str, float],
    *,
    symbol: Callable[[Complex], Complex],
    nonlinear: Callable[[Complex, Complex], Complex],
    start: Callable[[Real], Real],
    lower: float,
    length: float,
    end: float,
    modes: int,
    steps: int,
) -> Periodic:
    """u_t = symbol(i k) u + nonlinear(u, i k) from u = start(x), with `modes` modes and time steps `steps`.

    nonlinear gives the spectrum of N(u) from the values u on the grid and the wave numbers i k; a third of the modes is kept
    free of aliasing. Solved anew with half of both, which gives `error`; kept on disk.
    """

    def solve(modes: int, steps: int) -> Complex:
        k = 2j * np.pi / length * np.fft.fftfreq(modes, 1.0 / modes)
        free = np.abs(np.fft.fftfreq(modes, 1.0 / modes)) < modes / 3
        x = lower + length * np.arange(modes) / modes
        rate = lambda v: free * nonlinear(np.fft.ifft(v), k)  # noqa: E731
        return etdrk4(symbol(k), rate, np.fft.fft(start(x)), end=end, steps=steps) / modes

    def make() -> dict[str, Any]:
        fine, coarse = solve(modes, steps), solve(modes // 2, steps // 2)
        grids = [np.fft.ifft(s * s.shape[1], axis=1) for s in (fine, coarse)]
        difference, size = grids[0][:, ::2] - grids[1], grids[0][:, ::2]
        error = float(np.linalg.norm(difference) / np.linalg.norm(size))
        if not np.isfinite(error):
            raise ValueError(
                f"{name}: the reference does not stay finite at {dict(parameters)} with {modes} modes and {steps} steps"
            )
        return {"spectra": fine, "error": error}

    told = {**parameters, "lower": lower, "length": length, "end": end, "modes": modes, "steps": steps}
    held = kept(name, told, make)
    return Periodic(lower, length, end, held["spectra"], float(held["error"]))
