"""References by Fourier series: periodic equations u_t = L u + N(u), solved once, to a stated accuracy, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pinn_lora.references import accurate, kept

Complex = NDArray[np.complexfloating[Any, Any]]
Real = NDArray[np.float64]
Values = NDArray[Any]
VERSION = 2  # of what is kept on disk: a change of the solver counts it up
INTERVALS = 160  # between the instants that are held: those of the test grid's 161 points
EARLY = 16  # the first interval's steps are so much finer: there the layers of a kink in the start are born
RESOLVED = 2**16  # modes of the start that its heat evolution is carried with, beyond those of the equation
JUDGED = 161  # points of the period, both ends included, that the error is taken at
WAVES = 2**22  # entries of a table of waves at once, 64 MB
ROUNDING = 1e-12  # what the roundings of some thousand steps may add to the error, relative


@dataclass(frozen=True)
class Scheme:
    """One step of length h for dv/dt = linear v + nonlinear(v), exact for the linear part and of order 4 in h.

    Where something is damped, exponential time differencing with Runge-Kutta 4 (Cox & Matthews 2002): phi_1(z) = (e^z - 1) / z,
    phi_2(z) = (phi_1 - 1) / z, phi_3(z) = (phi_2 - 1/2) / z at z = h linear. Where nothing is, Runge-Kutta 4 for
    exp(-linear t) v (Lawson 1967): there a kink's short waves stay for ever, and turn too fast for the first one's polynomials.
    """

    linear: Complex
    h: float

    def step(self, v: Complex, nonlinear: Callable[[Complex], Complex]) -> Complex:
        """v (K,) at the end of the step."""
        return (self._differencing if self.linear.real.any() else self._lawson)(v, nonlinear)

    @cached_property
    def _exponentials(self) -> tuple[Complex, Complex]:
        return np.exp(self.h * self.linear), np.exp(0.5 * self.h * self.linear)

    @cached_property
    def _weights(self) -> tuple[Complex, ...]:
        one, two, three = phi(self.h * self.linear)
        half = 0.5 * phi(0.5 * self.h * self.linear)[0]
        return tuple(self.h * w for w in (half, one - 3 * two + 4 * three, 2 * two - 4 * three, 4 * three - two))

    def _differencing(self, v: Complex, nonlinear: Callable[[Complex], Complex]) -> Complex:
        (whole, half), (q, a, b, c) = self._exponentials, self._weights
        n1 = nonlinear(v)
        first = half * v + q * n1
        n2 = nonlinear(first)
        n3 = nonlinear(half * v + q * n2)
        n4 = nonlinear(half * first + q * (2 * n3 - n1))
        return whole * v + a * n1 + b * (n2 + n3) + c * n4

    def _lawson(self, v: Complex, nonlinear: Callable[[Complex], Complex]) -> Complex:
        (whole, half), h = self._exponentials, self.h
        n1 = nonlinear(v)
        n2 = nonlinear(half * (v + h / 2 * n1))
        n3 = nonlinear(half * v + h / 2 * n2)
        n4 = nonlinear(whole * v + h * half * n3)
        return whole * (v + h / 6 * n1) + h / 3 * half * (n2 + n3) + h / 6 * n4


def phi(z: Complex) -> tuple[Complex, Complex, Complex]:
    """phi_1, phi_2 and phi_3 at z (K,); below |z| = 1 by phi_3's power series, from which the others follow uncancelled."""
    small = np.abs(z) < 1.0
    safe = np.where(small, 1.0, z)
    one = (np.exp(safe) - 1.0) / safe
    three = ((one - 1.0) / safe - 0.5) / safe
    series, inner = np.zeros_like(z), np.where(small, z, 0.0)
    for j in range(20, 2, -1):  # 1 / 3! + z / 4! + ... = (1 + z / 4 (1 + z / 5 (1 + ...))) / 6
        series = 1.0 + inner / (j + 1) * series
    three = np.where(small, series / 6.0, three)
    two = np.where(small, z * three + 0.5, (one - 1.0) / safe)
    return np.where(small, z * two + 1.0, one), two, three


@dataclass(frozen=True)
class Equation:
    """u_t = symbol(i k) u + factor(i k) F[nonlinear(u)] in Fourier space, u(x, 0) = start(x) on a period from `lower`.

    nonlinear acts on values and is a polynomial of that `degree`. The start, smooth or with a kink at the period's ends, is
    real or complex, and so is u.
    """

    symbol: Callable[[Complex], Complex]
    nonlinear: Callable[[Values], Values]
    degree: int
    start: Callable[[Real], Values]
    lower: float
    length: float
    end: float
    factor: Callable[[Complex], Complex | float] = field(default=lambda k: 1.0)

    def begins(self, x: Real) -> Values:
        """The start, continued periodically."""
        return self.start(self.lower + (x - self.lower) % self.length)

    @cached_property
    def real(self) -> bool:
        return not np.iscomplexobj(self.start(np.array([self.lower])))

    def numbers(self, count: int) -> NDArray[np.int64]:
        """The numbers n of the modes |n| < count: those from 0 on where u is real, whose others are their conjugates."""
        return np.concatenate([np.arange(count), np.arange(0 if self.real else 1 - count, 0)])

    def k(self, numbers: NDArray[np.int64]) -> Complex:
        """i k of the modes."""
        return 2j * np.pi / self.length * numbers

    @cached_property
    def start_spectrum(self) -> Complex:
        """The start's coefficients (numbers(RESOLVED),): sums over 2^18 and 2^19 points, whose error is of even order where
        the period's ends have a kink, extrapolated once."""
        coarse, fine = (self._transform(self.begins(self._grid(size)), RESOLVED) for size in (2**18, 2**19))
        return (4.0 * fine - coarse) / 3.0

    def rates_at_the_kink(self, k: Complex) -> Complex:
        """How fast short waves at the period's ends grow: the equation, linearised about the start's value there."""
        u, h = self.begins(np.array([self.lower])), 1e-4
        slope = (self.nonlinear(u + h) - self.nonlinear(u - h)) / (2 * h)
        return self.symbol(k) + self.factor(k) * slope

    def rate(self, grid: int, count: int) -> Callable[[Complex], Complex]:
        """The spectrum of the nonlinear part by values on `grid` points, without aliasing where grid >= (degree + 1) count."""
        numbers = self.numbers(count)
        factor = self.factor(self.k(numbers))

        def rate(v: Complex) -> Complex:
            if self.real:
                values = np.fft.irfft(v, grid, norm="forward")
            else:
                padded = np.zeros(grid, dtype=complex)
                padded[numbers] = v
                values = np.fft.ifft(padded, norm="forward")
            return factor * self._transform(self.nonlinear(values), count)

        return rate

    def _grid(self, size: int) -> Real:
        return self.lower + self.length * np.arange(size) / size

    def _transform(self, values: Values, count: int) -> Complex:
        if self.real:
            return np.fft.rfft(values, norm="forward")[:count]
        return np.fft.fft(values, norm="forward")[self.numbers(count)]


@dataclass(frozen=True)
class Periodic:
    """A solution by its Fourier coefficients (161, K) at equal times from 0 to the end, and `error`, its relative L2 distance
    from a solution with half the modes and half the steps, at the held instants or between them, whichever is larger.

    Between two held instants it is solved on from the first with the steps that it was made with: nothing is interpolated.
    """

    equation: Equation
    modes: int
    steps: int
    spectra: Complex = field(repr=False)
    error: float

    def __call__(self, x: Real, t: Real) -> Values:
        """Values (n,) at points: the start itself at t = 0, then the series; real where the start is."""
        out = np.empty(len(x), dtype=float if self.equation.real else complex)
        instants, place = np.unique(t, return_inverse=True)
        places, number = np.unique(x, return_inverse=True)
        shared = self._waves(places, self._numbers) if places.size * self._numbers.size <= WAVES else None
        order = np.argsort(place, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(place, minlength=len(instants)))[:-1])
        for where, instant, spectrum in zip(groups, instants, self._at(instants), strict=True):
            if instant <= 0.0:
                out[where] = self.equation.begins(x[where])
            elif shared is not None:
                out[where] = self._values(shared[number[where]] @ spectrum)
            else:
                out[where] = self._series(x[where], self._numbers, spectrum)
            out[where] += self._beyond(x[where], instant)
        return out

    @property
    def _numbers(self) -> NDArray[np.int64]:
        return self.equation.numbers(_free(self.modes, self.equation))

    def _waves(self, x: Real, numbers: NDArray[np.int64]) -> Complex:
        """exp(i k (x - lower)) (n, K), twice that of a mode whose conjugate is not held."""
        waves = np.exp(np.outer(x - self.equation.lower, self.equation.k(numbers)))
        return waves * np.where(numbers > 0, 2.0, 1.0) if self.equation.real else waves

    def _series(self, x: Real, numbers: NDArray[np.int64], spectrum: Complex) -> Values:
        parts = np.array_split(x, max(1, -(-len(x) * len(numbers) // WAVES)))
        return np.concatenate([self._values(self._waves(part, numbers) @ spectrum) for part in parts])

    def _values(self, sums: Complex) -> Values:
        return sums.real if self.equation.real else sums

    def _at(self, instants: Real) -> Sequence[Complex]:
        """The spectra at ascending instants; each depends on its own instant alone."""
        found, interval = [], self.equation.end / INTERVALS
        linear, first = self.equation.symbol(self.equation.k(self._numbers)), -1
        rate = self.equation.rate(self.modes, _free(self.modes, self.equation))
        schemes = [Scheme(linear, interval / steps) for steps in (EARLY * self.steps, self.steps)]
        for t in instants:
            now = int(np.clip(t / interval + 1e-9, 0, INTERVALS))
            if now != first:
                first, v, taken, scheme = now, self.spectra[now], 0, schemes[min(now, 1)]
            steps, rest = divmod(t - first * interval + 1e-9 * scheme.h, scheme.h)
            for _ in range(int(steps) - taken):
                v = scheme.step(v, rate)
            taken = max(taken, int(steps))
            found.append(Scheme(linear, rest).step(v, rate) if rest > 1e-6 * scheme.h else v)
        return found

    def _beyond(self, x: Real, t: float) -> Values | float:
        """The start's modes above those that are solved for, moved by the linear equation, while its damping leaves any."""
        (numbers, spectrum, rates), edge = self._unsolved, self._edge.real
        if t <= 0.0 or not numbers.size or not edge < 0.0 or edge * t < -40.0:
            return 0.0
        spectrum = spectrum * np.exp(rates * t)
        left = np.abs(spectrum) > 1e-17 * self._largest
        return self._series(x, numbers[left], spectrum[left]) if left.any() else 0.0

    @property
    def _edge(self) -> complex:
        """The symbol at the first mode that is not solved for."""
        return self.equation.symbol(self.equation.k(np.array([_free(self.modes, self.equation)])))[0]

    @property
    def _largest(self) -> float:
        return float(np.abs(self.spectra[0]).max())

    @cached_property
    def _unsolved(self) -> tuple[NDArray[np.int64], Complex, Complex]:
        """Numbers, coefficients and rates of the start's modes that are not solved for, but for those that are roundings."""
        equation = self.equation
        numbers, spectrum = equation.numbers(RESOLVED), equation.start_spectrum
        left = (np.abs(numbers) >= _free(self.modes, equation)) & (np.abs(spectrum) > 1e-17 * self._largest)
        return numbers[left], spectrum[left], equation.rates_at_the_kink(equation.k(numbers[left]))


def _free(modes: int, equation: Equation) -> int:
    """How many modes a grid of `modes` points holds without aliasing."""
    return modes // (equation.degree + 1)


def solve_periodic(
    name: str, parameters: Mapping[str, float], equation: Equation, *, modes: int, steps: int
) -> Periodic:
    """The solution on `modes` grid points with `steps` time steps in each of the 160 intervals, 16 times as many in the first;
    modes and steps are even. Solved anew with half of both, which gives `error`; kept on disk. ValueError where it does not
    stay finite, and where the error is too large to judge by.
    """

    def make() -> dict[str, Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # what grows without bound is told in a sentence
            fine, coarse = (_solve(equation, modes // part, steps // part) for part in (1, 2))
            error = _distance(fine, coarse)
        if not np.isfinite(error):
            raise ValueError(
                f"{name}: the reference does not stay finite at {dict(parameters)} with {modes} grid points"
            )
        return {"spectra": fine.spectra, "error": error + ROUNDING}

    told = {**parameters, "lower": equation.lower, "length": equation.length, "end": equation.end}
    held = kept(name, {**told, "modes": modes, "steps": steps}, make, version=VERSION)
    return Periodic(equation, modes, steps, held["spectra"], accurate(name, parameters, float(held["error"])))


def _solve(equation: Equation, modes: int, steps: int) -> Periodic:
    count = _free(modes, equation)
    numbers, rate = equation.numbers(count), equation.rate(modes, count)
    linear, interval = equation.symbol(equation.k(numbers)), equation.end / INTERVALS
    v = equation.start_spectrum[numbers]
    found = [v]
    for number in range(INTERVALS):
        if number < 2:
            taken = EARLY * steps if number == 0 else steps
            scheme = Scheme(linear, interval / taken)
        for _ in range(taken):
            v = scheme.step(v, rate)
        found.append(v)
    return Periodic(equation, modes, steps, np.array(found), np.nan)


def _distance(fine: Periodic, coarse: Periodic) -> float:
    """Relative L2, the larger of that over the held instants and that over one in every tenth interval, the first included."""
    equation, apart = fine.equation, []
    places = equation.lower + equation.length * np.linspace(0.0, 1.0, JUDGED)
    for instants in (np.arange(INTERVALS + 1), 0.37 + np.arange(0, INTERVALS, 10)):
        x, t = (a.ravel() for a in np.meshgrid(places, instants * equation.end / INTERVALS, indexing="ij"))
        found = fine(x, t)
        apart.append(np.linalg.norm(found - coarse(x, t)) / np.linalg.norm(found))
    return float(max(apart))
