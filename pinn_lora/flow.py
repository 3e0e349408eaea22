"""A flow: objective, metric and lift together, as the ordinary differential equation that an integrator follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pinn_lora import integrators, lifts, metrics
from pinn_lora.catalog import build
from pinn_lora.integrators import Integrator, Step
from pinn_lora.lifts import Lift, Mass, Pair, gauge_directions
from pinn_lora.lora import Blocks, PairBlock
from pinn_lora.memory import available_mib
from pinn_lora.metrics import Metric
from pinn_lora.objective import Objective


@dataclass(frozen=True)
class System:
    """f, g (P,) and H (P, P) of a Gauss-Newton step with the mass of every block: None stands for the identity.

    `jacobian` gives (R, J) where a factorisation needs them.
    """

    value: float
    gradient: Tensor
    hessian: Tensor
    masses: tuple[tuple[slice, Mass | None], ...]
    gauges: tuple[tuple[slice, Tensor], ...]
    jacobian: Callable[[], tuple[Tensor, Tensor]]

    def solve(self, h: float) -> Tensor:
        """d of (M / h + H) d = -g: by Cholesky; least squares with [sqrt(2) J; (M / h)^1/2] where rounding defeats it.

        Every pair's gauge directions N, along which H is zero, are lifted by c N N^T, c = tr H / |N|^2: d stays the same.
        """
        matrix = self.hessian.clone()
        for place, N in self.gauges:
            norm = float(N.square().sum())
            if norm > 0:
                trace = float(self.hessian[place, place].diagonal().sum())
                matrix[place, place].addmm_(N, N.T, alpha=trace / norm)
        for place, mass in self.masses:
            if mass is None:
                matrix.diagonal()[place] += 1.0 / h
            else:
                matrix[place, place] += mass.matrix / h
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            finite = bool(matrix.isfinite().all())
            return self._solve_least_squares(h) if finite else torch.full_like(self.gradient, torch.nan)
        return -torch.cholesky_solve(self.gradient[:, None], factor)[:, 0]

    def _solve_least_squares(self, h: float) -> Tensor:
        R, J = self.jacobian()
        size = len(self.gradient)
        root = torch.zeros(size, size, dtype=J.dtype, device=J.device)
        for place, mass in self.masses:
            if mass is None:
                root.diagonal()[place] = h**-0.5
            else:
                values, vectors = torch.linalg.eigh(mass.matrix)
                root[place, place] = (values.clamp_min(0.0) / h).sqrt()[:, None] * vectors.T
        target = torch.cat([-(2.0**0.5) * R, R.new_zeros(size)])
        return torch.linalg.lstsq(torch.cat([2.0**0.5 * J, root]), target[:, None], driver="gelsd").solution[:, 0]


class Flow:
    """M dy/dt = -g on theta, at fixed points and a metric held fixed."""

    def __init__(self, objective: Objective, lift: Lift, metric: Metric) -> None:
        self.objective, self.lift, self.metric = objective, lift, metric
        self._last: tuple[Tensor, System] | None = None

    def value(self, theta: Tensor) -> float:
        return self.objective.value(theta)

    def velocity(self, theta: Tensor) -> tuple[float, Tensor]:
        """f and dy/dt: the lift of every pair's gradient, -g for dense blocks."""
        f, g = self.objective.gradient(theta)
        out = -g
        for block in self.objective.blocks.pairs:
            pair, (gB, gA) = _pair(block, theta), block.split(g[block.slice])
            dB, dA = self.lift.velocity(pair, gB, gA, self.metric)
            out[block.slice] = torch.cat([dB.reshape(-1), dA.reshape(-1)])
        return f, out

    def system(self, theta: Tensor) -> System:
        """The Gauss-Newton system at theta; kept, so that a rejected step does not make it again."""
        if self._last is None or self._last[0] is not theta:
            _check_room(self.objective.size, theta.device)
            f, g, H = self.objective.gauss_newton(theta)
            masses, gauges = [], []
            for block in self.objective.blocks.blocks:
                mass = None
                if isinstance(block, PairBlock):
                    pair = _pair(block, theta.double())
                    mass = self.lift.mass(pair, self.metric)
                    if mass.keeps_gauge:
                        gauges.append((block.slice, gauge_directions(pair)))
                masses.append((block.slice, mass))
            jacobian = lambda: self.objective.jacobian(theta)  # noqa: E731
            self._last = theta, System(f, g, H, tuple(masses), tuple(gauges), jacobian)
        self.objective.work.solves += 1
        return self._last[1]


def _check_room(size: int, device: torch.device) -> None:
    """MemoryError, in one sentence, where three P x P matrices (H, a shifted copy, its factor) do not fit."""
    needed, free = 3 * 8 * size**2 / 2**20, available_mib(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"the Gauss-Newton matrix of {size:,} unknowns takes {needed / 3072:.1f} GiB, three times over, and "
            f"{free / 1024:.1f} GiB are free; train fewer unknowns (LoRA factors of a lower rank) or use an L-BFGS method"
        )


def _pair(block: PairBlock, theta: Tensor) -> Pair:
    B, A = block.split(theta[block.slice])
    return Pair(B, A, block.scale)


@dataclass(frozen=True)
class Method:
    """A LoRA optimizer as three choices: metric, lift and integrator, each an instance, a name, or {"name": ..., options}.

    Raises ValueError for an implicit integrator with a lift that has no mass.
    """

    metric: Any = "identity"
    lift: Any = "chain_rule"
    integrator: Any = "euler"

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", build(metrics, Metric, self.metric))
        object.__setattr__(self, "lift", build(lifts, Lift, self.lift))
        object.__setattr__(self, "integrator", build(integrators, Integrator, self.integrator))
        if self.integrator.implicit and not self.lift.has_mass:
            kind, lift = type(self.integrator).__name__, type(self.lift).__name__
            raise ValueError(
                f"{kind} needs the lift's mass and {lift} has none; take an explicit integrator such as rk4"
            )

    @property
    def implicit(self) -> bool:
        return self.integrator.implicit

    @property
    def adaptive(self) -> bool:
        return self.integrator.adaptive

    def start(self, blocks: Blocks, theta: Tensor, *, step_size: float, max_steps: int) -> FlowRun:
        return FlowRun(self, step_size)


class FlowRun:
    """A method under way: the step size and the flow at the current points."""

    def __init__(self, method: Method, step_size: float) -> None:
        self.method, self.h = method, step_size
        self._flow: Flow | None = None

    def step(self, objective: Objective, theta: Tensor) -> Step:
        """One step; a new objective (new points) makes a new flow and keeps the step size."""
        if self._flow is None or self._flow.objective is not objective:
            self._flow = Flow(objective, self.method.lift, self.method.metric)
        taken = self.method.integrator.step(self._flow, theta, self.h)
        self.h = taken.next_h
        return taken
