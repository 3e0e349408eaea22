"""A flow: objective, metric and lift together, as the ordinary differential equation that an integrator follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from pinn_lora import lifts, solvers
from pinn_lora.catalog import find, names
from pinn_lora.integrators import Step
from pinn_lora.lifts import Lift, Pair, check_start
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import Blocks, LoRALinear, PairBlock
from pinn_lora.memory import FEWER, no_room, room_gib
from pinn_lora.metrics import Energies, Metric, Weights
from pinn_lora.objective import Objective
from pinn_lora.solvers import Masses, PairMass, Solver


@dataclass
class Learned:
    """What a metric has learnt in a run: how many gradients it has seen, and every layer's history."""

    count: int = 0
    histories: dict[str, Energies] = field(default_factory=dict)


class Flow:
    """M dy/dt = -g on theta, at fixed points, and at a metric that only `observe` changes."""

    def __init__(self, objective: Objective, lift: Lift, metric: Metric, learned: Learned | None = None) -> None:
        self.objective, self.lift, self.metric = objective, lift, metric
        self.learned = Learned() if learned is None else learned
        self._dense = WeightGradient(objective) if metric.dense else None
        self.past: Step | None = None  # the step before at these points, for control by more than one error
        self._gradient: tuple[Tensor, float, Tensor, dict[str, Tensor]] | None = None
        self._observed: Tensor | None = None
        self._last: tuple[Tensor, str | None, Solver] | None = None

    def value(self, theta: Tensor) -> float:
        return self.objective.value(theta)

    def residuals(self, theta: Tensor) -> Tensor:
        """R (N,) in float64, with f = |R|^2."""
        return self.objective.residuals(theta).double()

    def gradient(self, theta: Tensor) -> tuple[float, Tensor, dict[str, Tensor]]:
        """f, g (P,), and G (m, n) of every adapted layer where the metric asks for it; the last one is kept."""
        if self._gradient is None or self._gradient[0] is not theta:
            f, g, dense = self._dense(theta) if self._dense else (*self.objective.gradient(theta), {})
            self._gradient = theta, f, g, dense
        _, f, g, dense = self._gradient
        return f, g, dense

    def observe(self, theta: Tensor) -> None:
        """Takes the gradient at theta into the metric's history, once: between steps, so that a step's field is fixed."""
        if not self.metric.learns or self._observed is theta:
            return
        _, g, dense = self.gradient(theta)
        learned, self._observed, self._last = self.learned, theta, None
        learned.count += 1
        for block in self.objective.blocks.pairs:
            if self._dense:
                squares = dense[block.name].square()
                found = Energies(squares.sum(1), squares.sum(0))
            else:
                found = tangent_energies(_pair(block, theta), *block.split(g[block.slice]))
            past = learned.histories.get(block.name)
            learned.histories[block.name] = self.metric.observe(past, learned.count, found)

    def resume(self, past: Step) -> None:
        """Goes on after a step: the place that a rejected one came back to has been observed."""
        self.past, self._observed = past, None if past.accepted else past.theta

    def weights(self, block: PairBlock, pair: Pair) -> Weights:
        """The metric of a layer."""
        return self.metric.weights(self.learned.histories.get(block.name), self.learned.count, pair.B, pair.A)

    def velocity(self, theta: Tensor) -> tuple[float, Tensor]:
        """f and dy/dt: the lift of every pair's gradient, -g for dense blocks."""
        f, g, _ = self.gradient(theta)
        out = -g
        for block in self.objective.blocks.pairs:
            pair, (gB, gA) = _pair(block, theta), block.split(g[block.slice])
            dB, dA = self.lift.velocity(pair, gB, gA, self.weights(block, pair))
            out[block.slice] = torch.cat([dB.reshape(-1), dA.reshape(-1)])
        return f, out

    def defined(self, theta: Tensor) -> bool:
        """Whether the lift is finite at theta, whatever the gradient is: it takes zeros to zeros."""
        for block in self.objective.blocks.pairs:
            pair = _pair(block, theta)
            zeros = torch.zeros_like(pair.B), torch.zeros_like(pair.A)
            if any(not part.isfinite().all() for part in self.lift.velocity(pair, *zeros, self.weights(block, pair))):
                return False
        return True

    def system(self, theta: Tensor, solver: str | None = None) -> Solver:
        """The Gauss-Newton system at theta, by the solver named, or the one that takes the least of those that fit; kept, so
        that a rejected step does not make it again."""
        if self._last is None or self._last[0] is not theta or self._last[1] != solver:
            self._last = None  # the system before this one need not stay while this one is made
            chosen = solver_of(self.objective, theta, solver)
            self._last = theta, solver, chosen.at(self.objective, theta, self.masses(theta))
        self.objective.work.solves += 1
        return self._last[2]

    def masses(self, theta: Tensor) -> Masses:
        """M at theta, in float64."""
        found = []
        for block in self.objective.blocks.pairs:
            pair = _pair(block, theta.double())
            metric = Weights(*(diagonal.double() for diagonal in self.weights(block, pair)))
            found.append(PairMass(block.slice, pair, self.lift, metric))
        return Masses(tuple(found))


def solver_of(objective: Objective, theta: Tensor, name: str | None = None) -> type[Solver]:
    """The solver named, or, of those that fit into memory beside the points that go through the network together, the one of
    fewest operations. MemoryError, before anything is made, where none fits."""
    rows, unknowns, beside = objective.rows, objective.size, objective.chunk_gib
    room = room_gib(theta.device, objective.max_memory)
    every = {n: find(solvers, Solver, n) for n in names(solvers)}
    kinds = every if name is None else {name: find(solvers, Solver, name)}
    needed = {n: kind.gib(rows, unknowns) + beside for n, kind in every.items()}
    fitting = [n for n in kinds if room is None or needed[n] <= room]
    if fitting:
        return kinds[min(fitting, key=lambda n: kinds[n].operations(rows, unknowns))]
    least, slim = min(kinds, key=needed.__getitem__), min(every, key=needed.__getitem__)
    advice = FEWER
    if needed[slim] <= cast(float, room):
        advice = f"take solver={slim!r} ({needed[slim]:.2g} GiB)"
    elif kinds[least].gib(rows // 2, unknowns) < kinds[least].gib(rows, unknowns):
        advice = f"{FEWER} or take fewer points"
    what = f"solver {least}, for {unknowns:,} unknowns and {rows:,} residuals,"
    # with more room more points go together, in up to a quarter of it
    enough = max(needed[least], 4 / 3 * kinds[least].gib(rows, unknowns))
    taken = needed[least] if objective.max_memory is None else enough
    raise no_room(what, taken, cast(float, room), advice, objective.max_memory, room_gib(theta.device))


class Flows:
    """The flow of a run wherever it is: a new objective (new points) makes a new flow, and what the metric has learnt stays.

    ValueError where the lift cannot begin at theta, see `check_start`: every run that follows a lift has its flows.
    """

    def __init__(self, lift: Lift, metric: Metric, blocks: Blocks, theta: Tensor) -> None:
        check_start(lift, {block.name: _pair(block, theta) for block in blocks.pairs})
        self.lift, self.metric, self.learned = lift, metric, Learned()
        self._flow: Flow | None = None

    def at(self, objective: Objective, theta: Tensor) -> Flow:
        """The flow at the objective's points, its metric having seen the gradient at theta."""
        if self._flow is None or self._flow.objective is not objective:
            self._flow = Flow(objective, self.lift, self.metric, self.learned)
        self._flow.observe(theta)
        return self._flow

    def state(self) -> dict[str, Any]:
        """What the metric has learnt, and of the last step at these points what the next one's control asks for."""
        histories = {name: tuple(energies) for name, energies in self.learned.histories.items()}
        past = self._flow.past if self._flow else None
        return {"count": self.learned.count, "histories": histories, "past": past and (past.accepted, past.error)}

    def restore(self, state: dict[str, Any], objective: Objective | None, theta: Tensor) -> None:
        """Goes on from such a state at theta, at the points of `objective`."""
        histories = {name: Energies(*energies) for name, energies in state["histories"].items()}
        self.learned, self._flow = Learned(state["count"], histories), None
        if objective and state["past"]:
            accepted, error = state["past"]
            self._flow = Flow(objective, self.lift, self.metric, self.learned)
            self._flow.resume(Step(theta, accepted, math.nan, math.nan, error=error))


def tangent_energies(pair: Pair, g_B: Tensor, g_A: Tensor) -> Energies:
    """Energies of G's projection on the tangent space of rank-r products, D = -s (dB A + B dA) with the balanced lift's
    velocities, from its factors [dB, B] (m, 2r) and [A; dA] (2r, n): at O((m+n) r^2), without an m x n matrix."""
    dB, dA = Balanced(eps=1e-8).velocity(pair, g_B, g_A, Weights(g_B, g_A))
    left, right = torch.cat([dB, pair.B], 1), torch.cat([pair.A, dA])
    unit = pair.scale**2
    rows = ((left @ (right @ right.T)) * left).sum(1).clamp_min(0.0)
    columns = ((left.T @ left @ right) * right).sum(0).clamp_min(0.0)
    return Energies(unit * rows, unit * columns)


class WeightGradient:
    """f, g (P,) and G = df/dW (m, n) of every adapted layer in one pass: the loss's gradient in the layers' own weights, of
    which the factors' is a product, g_B = s G A^T, g_A = s B^T G."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.twin = objective.unfactored()

    def __call__(self, theta: Tensor) -> tuple[float, Tensor, dict[str, Tensor]]:
        blocks, network, dense = self.objective.blocks, self.objective.network, {}
        trained = blocks.parameters(theta)
        places = {block.name: block for block in self.twin.blocks.blocks}
        weights = theta.new_empty(self.twin.size)
        layers = {block.name: f"{block.name}.weight" for block in blocks.pairs}
        for block in blocks.pairs:
            B, A = block.split(theta[block.slice])
            layer = cast(LoRALinear, network.get_submodule(block.name))
            weights[places[layers[block.name]].slice] = layer.effective_weight(B, A).reshape(-1)
        for name, place in places.items():
            if name not in layers.values():
                weights[place.slice] = trained[name].reshape(-1)
        f, G = self.twin.gradient(weights)
        g = torch.empty_like(theta)
        for block in blocks.blocks:
            if isinstance(block, PairBlock):
                pair, place = _pair(block, theta), places[layers[block.name]]
                dense[block.name] = D = G[place.slice].view(len(pair.B), pair.A.shape[1])
                found = torch.cat([(D @ pair.A.T).reshape(-1), (pair.B.T @ D).reshape(-1)])
                g[block.slice] = pair.scale * found
            else:
                g[block.slice] = G[places[block.name].slice]
        return f, g, dense


def _pair(block: PairBlock, theta: Tensor) -> Pair:
    B, A = block.split(theta[block.slice])
    return Pair(B, A, block.scale)


def cosine(first: float, taken: int, max_steps: int) -> float:
    """`first`, falling to zero along a half cosine over `max_steps` steps, of which so many are taken."""
    return 0.5 * first * (1.0 + math.cos(math.pi * min(taken / max_steps, 1.0)))


def total_cost(evaluations: str, metric: Metric, lift: Lift) -> str:
    """The cost of a step that evaluates so much and takes each gradient through a metric and a lift."""
    return ", ".join(dict.fromkeys(part for part in (evaluations, metric.cost, lift.cost) if part))


def check_metric(lift: Lift, metric: Metric) -> None:
    """ValueError for a metric that the lift does not see."""
    if metric.learns and not lift.uses_metric:
        fitting = [name for name in names(lifts) if find(lifts, Lift, name).uses_metric]
        raise ValueError(
            f"{type(lift).__name__} follows the same direction whatever the metric is, so {type(metric).__name__} would do "
            f"nothing; take the metric identity, or a lift that uses it ({', '.join(fitting)})"
        )
