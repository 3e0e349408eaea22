"""SPQN: L-BFGS preconditioned by local L-BFGS on every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pinn_lora.catalog import choose
from pinn_lora.integrators import Step
from pinn_lora.objective import Objective
from pinn_lora.optimizers import Optimizer, Resumable
from pinn_lora.optimizers.lbfgs import LBFGS, LBFGSRun
from pinn_lora.ranges import COUNT, check_ranges
from pinn_lora.wolfe import Place, evaluate, strong_wolfe

Kind = Literal["multiplicative", "additive"]
FRESH = 1.2  # gradients a local step takes on average: a new history starts with longer line searches
OWN = 3.0  # of the step itself: where it starts, where the local steps ended, and the global step's line search


@dataclass(frozen=True)
class SPQN(Optimizer):
    """A step is `local` L-BFGS iterations on each layer with the others frozen, then one L-BFGS step on all of theta.

    additive: every layer starts from theta, and their changes are added along a line search; multiplicative: each sees the
    changes before its own. The global step's pair is (theta', g') - (theta'', g'') with theta'' where the local steps ended.
    One layer has nothing to decompose: then it is L-BFGS. Source: Kopanicakova, Kothari, Karniadakis & Krause 2023 (arXiv
    2306.17648); from their abstract and others' notes, reconstructed: the line search along the sum of the changes is ours.
    """

    adaptive = True
    own = "O(history P)"

    kind: Kind = "multiplicative"
    local: int = 10
    history: int = 10

    def __post_init__(self):
        choose(self.kind, get_args(Kind), what="kind of spqn")
        check_ranges(self, local=COUNT, history=COUNT)

    @property
    def cost(self):
        return f"{1.0 + FRESH * self.local:.0f} gradients a layer, {OWN:g} more, {self.own}"

    def gradients(self, layers):
        if layers == 1:
            return LBFGS(history=self.history).gradients(layers)
        return layers * (1.0 + FRESH * self.local) + OWN

    def start(self, blocks, theta, *, step_size, max_steps):
        layers: dict[str, list[slice]] = {}
        for block in blocks.blocks:
            name = block.name if len(block.keys) == 2 else block.name.rpartition(".")[0]
            layers.setdefault(name, []).append(block.slice)
        if len(layers) == 1:
            return LBFGS(history=self.history).start(blocks, theta, step_size=step_size, max_steps=max_steps)
        every = torch.arange(len(theta), device=theta.device)
        places = [torch.cat([every[s] for s in slices]) for slices in layers.values()]
        return SPQNRun(self, places, step_size)


class Local:
    """An objective as one layer sees it, the others frozen."""

    def __init__(self, objective: Objective, theta: Tensor, place: Tensor) -> None:
        self.objective, self.theta, self.place = objective, theta, place

    def whole(self, part: Tensor) -> Tensor:
        return self.theta.index_copy(0, self.place, part)

    def gradient(self, part: Tensor) -> tuple[float, Tensor]:
        value, g = self.objective.gradient(self.whole(part))
        return value, g[self.place]


class SPQNRun(Resumable):
    """The pairs (s, y) of the global steps."""

    def __init__(self, settings: SPQN, places: list[Tensor], step_size: float) -> None:
        self.settings, self.places, self.h = settings, places, step_size
        self.objective: Objective | None = None
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def restore(self, state, objective, theta):
        super().restore(state, objective, theta)
        self.objective = objective

    def step(self, objective, theta):
        if objective is not self.objective:
            self.objective, self.pairs = objective, []
        start = evaluate(objective, theta)
        if not (math.isfinite(start.value) and start.gradient.isfinite().all()):
            return Step(torch.full_like(theta, torch.nan), True, self.h, start.value)
        corrected = self._precondition(objective, start)
        found = self._global(objective, corrected)
        moved = not torch.equal(found.theta, theta)
        finished = not moved and not self.pairs
        if not moved:
            self.pairs = []
        return Step(found.theta, moved, self.h, start.value, finished=finished)

    def _precondition(self, objective: Objective, start: Place) -> Place:
        if self.settings.kind == "multiplicative":
            theta = start.theta
            for place in self.places:
                theta = self._locally(objective, theta, place)
            place = evaluate(objective, theta)
            return place if place.value < start.value else start
        total = sum(self._locally(objective, start.theta, place) - start.theta for place in self.places)
        assert isinstance(total, Tensor)
        slope = float(total @ start.gradient)
        for halving in range(10):
            found = evaluate(objective, start.theta + 0.5**halving * total)
            if found.value <= start.value + 1e-4 * 0.5**halving * min(slope, 0.0):
                return found
        return start

    def _locally(self, objective: Objective, theta: Tensor, place: Tensor) -> Tensor:
        """theta after some L-BFGS iterations on one layer."""
        part, local = theta[place], Local(objective, theta, place)
        run = LBFGSRun(LBFGS(history=self.settings.history), part, 1.0)
        for _ in range(self.settings.local):
            taken = run.step(local, part)
            part = taken.theta
            if taken.finished:
                break
        return local.whole(part) if part.isfinite().all() else theta

    def _global(self, objective: Objective, start: Place) -> Place:
        direction = self._direction(start.gradient)
        if not self.pairs:
            direction = direction * self.h * min(1.0, 1.0 / max(float(start.gradient.abs().sum()), 1e-300))
        found = strong_wolfe(objective, start, direction)
        if found is None:
            return start
        s, y = found.theta - start.theta, found.gradient - start.gradient
        if float(s @ y) > 1e-12 * float(s.norm() * y.norm()):  # below, rounding has eaten the curvature
            self.pairs = [*self.pairs, (s, y)][-self.settings.history :]
        return found

    def _direction(self, g: Tensor) -> Tensor:
        """-H g by the two loops of L-BFGS over the pairs (Nocedal 1980)."""
        q, kept = -g, []
        for s, y in reversed(self.pairs):
            alpha = (s @ q) / (y @ s)
            kept.append(alpha)
            q = q - alpha * y
        if self.pairs:
            s, y = self.pairs[-1]
            q = q * ((s @ y) / (y @ y))
        for (s, y), alpha in zip(self.pairs, reversed(kept), strict=True):
            q = q + s * (alpha - (y @ q) / (y @ s))
        return q
