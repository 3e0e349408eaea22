"""Self-scaled Broyden: a quasi-Newton method that keeps the whole inverse Hessian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pinn_lora.catalog import choose
from pinn_lora.integrators import Step
from pinn_lora.memory import check_room
from pinn_lora.optimizers import Optimizer, Resumable
from pinn_lora.wolfe import Place, evaluate, strong_wolfe

Variant = Literal["broyden", "bfgs"]
TRIES = 1.1  # gradients a step takes on average: over 600 steps on Burgers, of both variants


@dataclass(frozen=True)
class SSBroyden(Optimizer):
    """theta <- theta - t H g with a strong Wolfe line search and, with s, y the steps of theta and g,

        H <- (H - H y y^T H / (y.H y) + phi (y.H y) v v^T) / tau + s s^T / (y.s),  v = s / (y.s) - H y / (y.H y).

    variant broyden: phi and tau of the self-scaled Broyden family's best member; bfgs: phi = 1, tau = min(1, y.s / s.H^-1 s).
    H starts as I, the first update is the formula too (their default, initial_scale = False), and H is kept when points change.
    The first direction is -g / max(|g|, 1) times the step size; from a line search that fails H is I again: both ours. Needs
    P x P numbers. Source: Al-Baali 1998; for PINNs Urban, Stefanou & Pons 2025 (arXiv 2405.04230; SSBroyden2 and SSBFGS_AB
    of their code).
    """

    adaptive = True
    evaluates = "1 gradient, more where the line search asks"
    own = "O(P^2)"

    variant: Variant = "broyden"

    def __post_init__(self):
        choose(self.variant, get_args(Variant), what="variant of ssbroyden")

    def gradients(self, layers):
        return TRIES

    def start(self, blocks, theta, *, step_size, max_steps):
        check_room("inverse Hessian", len(theta), theta.device)
        return SSBroydenRun(self, step_size)


class SSBroydenRun(Resumable):
    """The inverse Hessian H (P, P), None while it is the identity, and the place where theta is."""

    def __init__(self, settings: SSBroyden, step_size: float) -> None:
        self.settings, self.h = settings, step_size
        self.H: Tensor | None = None
        self.before: float | None = None
        self.objective, self.place = None, None

    def restore(self, state, objective, theta):
        super().restore(state, objective, theta)
        self.objective, self.place = objective, evaluate(objective, theta) if objective else None

    def step(self, objective, theta):
        if self.objective is not objective or self.place is None or not torch.equal(self.place.theta, theta):
            self.objective, self.place, self.before = objective, evaluate(objective, theta), None
        start: Place = self.place
        g = start.gradient
        if not (math.isfinite(start.value) and g.isfinite().all()):
            return Step(torch.full_like(theta, torch.nan), True, self.h, start.value)
        fresh = self.H is None
        direction = -self.h * g / max(float(g.norm()), 1.0) if self.H is None else -(self.H @ g.double()).to(g)
        found = strong_wolfe(objective, start, direction, before=self.before)
        if found is None:
            self.H, self.before = None, None
            return Step(theta, False, self.h, start.value, finished=fresh)
        self.before, self.place = start.value, found
        self._update(
            (found.theta - start.theta).double(), (found.gradient - g).double(), g.double(), direction.double()
        )
        return Step(found.theta, True, self.h, start.value)

    def _update(self, s: Tensor, y: Tensor, g: Tensor, direction: Tensor) -> None:
        ys = float(y @ s)
        if not ys > 1e-300:  # rounding has eaten the curvature; H stays
            return
        if self.H is None:
            self.H = s.new_ones(len(s)).diag()
            b = float(s @ s) / ys
        else:
            step = float((s @ direction) / (direction @ direction))  # s = step d and d = -H g
            b = -step * float(s @ g) / ys
        Hy = self.H @ y
        yHy = float(y @ Hy)
        tau, phi = (min(1.0, 1.0 / b), 1.0) if self.settings.variant == "bfgs" else scaling(b, yHy / ys, len(s))
        v = s / ys - Hy / yHy
        self.H.addr_(Hy, Hy, alpha=-1.0 / yHy).addr_(v, v, alpha=phi * yHy).div_(tau).addr_(s, s, alpha=1.0 / ys)


def scaling(b: float, h: float, size: int) -> tuple[float, float]:
    """tau and phi from b = s.H^-1 s / y.s, h = y.H y / y.s and the number of unknowns."""
    a = max(b * h - 1.0, 1e-14)  # at least 0 by Cauchy's inequality
    c = math.sqrt(a / (1.0 + a))
    low = min(1.0, h * (1.0 - c))
    theta = max((low - 1.0) / a, min(1.0 / low, (1.0 - b) / b))
    sigma = 1.0 + a * theta
    q, r = abs(sigma) ** (1.0 / (1.0 - size)) if size > 1 else 1.0, min(1.0, 1.0 / b)
    tau = min(r * q, sigma) if theta <= 0.0 else r * min(q, 1.0 / theta)
    return tau, (1.0 - theta) / sigma
