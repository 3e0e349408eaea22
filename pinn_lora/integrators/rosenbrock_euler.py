"""The linearly implicit Euler method: a Gauss-Newton step damped by the mass of the flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pinn_lora.integrators import Integrator, Step


@dataclass(frozen=True)
class RosenbrockEuler(Integrator):
    """(M / h + H) d = -g, y <- y + d, with H = 2 J^T J the Gauss-Newton matrix and M the mass of the lift.

    h -> 0 is explicit Euler on the same flow, h -> infinity Gauss-Newton, M = I Levenberg-Marquardt with damping 1/h.
    Adaptive: the ratio of actual to predicted decrease q(d) = -g.d - d.H d / 2 accepts the step above `accept`, widens h by
    `grow` above 3/4 and divides it by `shrink` below 1/4; a rejected step costs one residual evaluation and one solve.
    """

    order = 1
    implicit = True

    adaptive: bool = True
    accept: float = 1e-4
    grow: float = 3.0
    shrink: float = 2.0

    def __post_init__(self):
        least = {"accept": self.accept >= 0.0, "grow": self.grow >= 1.0, "shrink": self.shrink > 1.0}
        for name, fits in least.items():
            if not fits:
                raise ValueError(
                    f"rosenbrock_euler: {name} is {getattr(self, name)}; accept must be at least 0, grow at least 1 and "
                    "shrink above 1"
                )

    @property
    def cost(self):
        return "1 Jacobian, H of it, 1 Cholesky factor (P x P)" + (", 1 residual" if self.adaptive else "")

    def step(self, flow, theta, h):
        system = flow.system(theta)
        d = system.solve(h)
        trial = theta + d.to(theta)
        if not self.adaptive:
            return Step(trial, True, h, system.value)
        if torch.equal(trial, theta):  # d is lost in rounding, and a smaller step would be too
            return Step(theta, False, h, system.value, finished=True)
        predicted = float(-(system.gradient @ d) - 0.5 * (d @ (system.hessian @ d)))
        actual = system.value - flow.value(trial)
        if not actual >= self.accept * predicted:  # also where the trial is not finite
            return Step(theta, False, h / self.shrink, system.value)
        ratio = actual / predicted if predicted > 0 else 1.0
        factor = self.grow if ratio > 0.75 else 1.0 / self.shrink if ratio < 0.25 else 1.0
        return Step(trial, True, h * factor, system.value)
