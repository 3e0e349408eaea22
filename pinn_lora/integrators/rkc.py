"""Runge-Kutta-Chebyshev: an explicit method for stiff flows, stable over a distance that grows with the stages squared."""

from __future__ import annotations

from dataclasses import dataclass

from pinn_lora.integrators import Integrator, Step
from pinn_lora.ranges import COUNT, NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class RKC(Integrator):
    """Runge-Kutta-Chebyshev of order 1: `stages` gradients a step, stable for h L < about 1.93 stages^2 on gradient flows.

    R(z) = T_s(w_0 + w_1 z) / T_s(w_0) with w_0 = 1 + damping / s^2 and w_1 = T_s(w_0) / T_s'(w_0), by the three-term
    recurrence of the Chebyshev polynomials: no stage ever grows. One stage is explicit Euler. Source: van der Houwen &
    Sommeijer 1980; Verwer, Hundsdorfer & Sommeijer 1990.
    """

    order = 1

    stages: int = 8
    damping: float = 0.05

    def __post_init__(self):
        check_ranges(self, stages=COUNT, damping=NOT_NEGATIVE)

    def _chebyshev(self) -> tuple[list[float], float, float]:
        """T_j(w_0) for j = 0 ... stages, w_0 and w_1."""
        s = self.stages
        w0 = 1.0 + self.damping / s**2
        T, dT = [1.0, w0], [0.0, 1.0]
        for _ in range(2, s + 1):
            T.append(2.0 * w0 * T[-1] - T[-2])
            dT.append(2.0 * T[-2] + 2.0 * w0 * dT[-1] - dT[-2])
        return T, w0, T[s] / dT[s]

    @property
    def stability(self) -> float:
        """The step is stable for h L up to this: -(w_0 + 1) / w_1 is the end of the interval where |R| <= 1."""
        _, w0, w1 = self._chebyshev()
        return (w0 + 1.0) / w1

    @property
    def gradients(self):
        return self.stages

    def step(self, flow, theta, h):
        T, w0, w1 = self._chebyshev()
        value, velocity = flow.velocity(theta)
        before, now = theta, theta + h * w1 / w0 * velocity
        for j in range(2, self.stages + 1):
            one, two = T[j - 1] / T[j], T[j - 2] / T[j]
            after = 2.0 * one * (w0 * now + w1 * h * flow.velocity(now)[1]) - two * before
            before, now = now, after
        return Step(now, True, h, value)
