"""The embedded pair of Bogacki and Shampine: orders 3 and 2, with step control."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pinn_lora.integrators import RungeKutta, Step, Tableau, combine
from pinn_lora.ranges import POSITIVE, check_ranges

ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)  # b - b* of the embedded method of order 2


@dataclass(frozen=True)
class BogackiShampine(RungeKutta):
    """Bogacki-Shampine 3(2): three gradients a step, the step size controlled by the embedded error estimate.

    Four gradients for the first step at new points and for one after a rejected one.

    The step's error, in the norm sqrt(mean((e / (atol + rtol max(|y|, |y_new|)))^2)), is held at 1: an accepted step
    multiplies h by 0.9 error^(-0.7/3) past^(0.4/3) within 0.2 and 5, past the error of the step before, of this one where that
    was refused or is none, both at least 1e-10; a rejected one by 0.9 error^(-1/3) within 0.2 and 0.5. The last stage is the
    next step's first. Source: Bogacki & Shampine 1989 (Applied Mathematics Letters 2); the control: Hairer & Wanner,
    Solving Ordinary Differential Equations II, IV.2.
    """

    order = 3
    control = ("rtol", "atol")
    tableau = Tableau(a=((1 / 2,), (0.0, 3 / 4)), b=(2 / 9, 1 / 3, 4 / 9))

    adaptive: bool = True
    rtol: float = 1e-3
    atol: float = 1e-6

    def __post_init__(self):
        check_ranges(self, rtol=POSITIVE, atol=POSITIVE)

    def step(self, flow, theta, h):
        if not self.adaptive:
            return super().step(flow, theta, h)
        value, stages = self.stages(flow, theta, h)
        new = theta + h * combine(self.tableau.b, stages)
        stages.append(flow.velocity(new)[1])  # kept by the flow: the next step's first
        size = self.atol + self.rtol * theta.abs().maximum(new.abs())
        error = float((h * combine(ERROR, stages) / size).square().mean().sqrt())
        if not error <= 1.0:  # also where it is not finite
            factor = 0.9 * error ** (-1.0 / 3.0) if math.isfinite(error) else 0.0
            return Step(theta, False, h * min(max(factor, 0.2), 0.5), value, error=error)
        past = flow.past.error if flow.past is not None and flow.past.accepted and flow.past.error else error
        factor = 0.9 * max(error, 1e-10) ** (-0.7 / 3.0) * max(past, 1e-10) ** (0.4 / 3.0)
        return Step(new, True, h * min(max(factor, 0.2), 5.0), value, error=error)
