"""One training run: steps, the points added after them, the records, and the rules that end it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pinn_lora.clock import by_cpu_time
from pinn_lora.compiling import compile_seconds
from pinn_lora.gang import objective_for, spent
from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective, Work
from pinn_lora.optimizers import Optimizer
from pinn_lora.places import ProblemError
from pinn_lora.points import first_points, grow, held_out_points
from pinn_lora.ranges import COUNT, NOT_NEGATIVE, POSITIVE, must_be
from pinn_lora.solution import Record, Solution, Status, grid_points, grid_reference, relative_error

STALL_STEPS, STALL_FALL = 20, 0.01  # CONVERGED: the held-out loss fell by under 1 % over 20 accepted steps
BLOW_UP = 1e3  # DIVERGED: the loss exceeds the first one so many times
PROBES, PROBE_SECONDS = 15, 1.0  # a unit of work is measured so often, no longer: no clock of the run counts it


def first_loss(objective: Objective, theta: Tensor) -> float:
    """The loss before the first step. ProblemError, with the file and line of the term that it comes from, where it is not
    finite."""
    loss = objective.value(theta)
    if math.isfinite(loss):
        return loss
    norms = objective.term_norms(theta)
    term = next((chunk.term for chunk, _ in objective.chunks if not math.isfinite(norms[chunk.term.name])), None)
    where, which = (f"{term.place}: ", f"its term {term.name}") if term else ("", "its residual and conditions")
    raise ProblemError(f"{where}the loss of {objective.problem!r} is {loss} before the first step; check {which}")


@dataclass(frozen=True)
class Budget:
    """When a run ends, and when points are added: every `resample_every` steps, by `growth` of the first number, at most up
    to `most` times it; where `overfit` is given, only while the held-out loss is above so many times the fitted one. A line
    search that stops before the last points were added gets the next ones at once."""

    max_steps: int
    max_seconds: float | None = None
    resample_every: int | None = 10
    growth: float = 0.25
    most: float = 3.0
    overfit: float | None = None

    def __post_init__(self) -> None:
        must_be(COUNT, max_steps=self.max_steps, resample_every=self.resample_every)
        must_be(NOT_NEGATIVE, max_seconds=self.max_seconds)


class _Judge:
    """What only reports: the error against the reference on the test grid, nan where there is none or it fails."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.points = grid_points(solution.problem)
        self.reference: np.ndarray | None = None
        if solution.problem.has_reference:
            try:
                self.reference = grid_reference(solution.problem)
            except Exception:  # the reference is never needed to train; Solution.relative_l2 raises its error
                self.reference = None

    def error(self, theta: Tensor, blocks: Blocks) -> float:
        if self.reference is None:
            return math.nan
        blocks.write(self.solution.network, theta)
        return relative_error(self.solution.predict(self.points.numpy()), self.reference)


def _record_steps(max_steps: int) -> set[int]:
    """Which steps are written into the history: evenly spaced ones, and at the start ever denser ones; the last always."""
    even, dense = np.linspace(0, max_steps, 61), np.geomspace(1, max_steps, 41)
    return {round(float(step)) for step in (*even, *dense)}


def _work_unit(objective: Objective, theta: Tensor) -> float:
    """Median seconds of one loss-and-gradient, not counted as work; the first, which warms up, is left out."""
    probe, taken = replace(objective, work=Work()), []
    while len(taken) <= PROBES and sum(taken[1:]) < PROBE_SECONDS:
        start = spent(theta.device)
        probe.gradient(theta)
        taken.append(spent(theta.device) - start)
    return statistics.median(taken[1:])


def train(
    solution: Solution,
    method: Optimizer,
    *,
    step_size: float,
    budget: Budget,
    points: int,
    weights: Mapping[str, float] | None,
    seed: int,
    compile: bool,
    max_memory: float | None = None,
    progress: bool,
) -> Solution:
    problem, network = solution.problem, solution.network
    must_be(POSITIVE, step_size=step_size)
    must_be(COUNT, points=points)
    blocks = Blocks(network)
    theta = blocks.read(network)
    chosen = first_points(problem, points, seed=seed)
    objective = objective_for(problem, network, blocks, chosen, weights or {}, compile=compile, max_memory=max_memory)
    held_out = replace(objective, points=held_out_points(problem), work=Work())
    first = first_loss(objective, theta)
    compiled = compile_seconds()
    loop = _Loop(solution, method, objective, held_out, theta, budget, first, step_size, seed, progress)
    theta, status = loop.run()
    blocks.write(network, theta)
    settings = {
        **solution.settings,
        "step_size": step_size,
        "unknowns": blocks.size,
        "unit_seconds": loop.unit,
        "clock": "CPU" if by_cpu_time(theta.device) else "wall",
        "seconds": loop.history[-1].seconds,
        "accepted": loop.accepted,
        "threads": torch.get_num_threads(),
        "compile_seconds": compile_seconds() - compiled,
        "work": asdict(objective.work),
        "budget": asdict(budget),
    }
    return replace(solution, history=tuple(loop.history), status=status, settings=settings)


class _Loop:
    """One run: steps, points added after them, records, and the rules that end it."""

    def __init__(self, solution, method, objective, held_out, theta, budget, first, step_size, seed, progress) -> None:
        self.objective, self.held_out, self.theta, self.budget = objective, held_out, theta, budget
        self.first, self.seed, self.history = first, seed, []
        self.judge = _Judge(solution)
        self.unit = _work_unit(objective, theta)
        self.taken = method.start(objective.blocks, theta, step_size=step_size, max_steps=budget.max_steps)
        self.stalls = method.implicit and method.adaptive  # the others run their budget, or until a line search stops
        self.recorded = _record_steps(budget.max_steps)
        self.accepted = 0
        first_points = len(objective.points["residual"][0])
        self.extra = max(1, int(budget.growth * first_points))
        planned = (budget.max_steps - 1) // budget.resample_every if budget.resample_every else 0
        self.additions = min(planned, int((budget.most - 1.0) * first_points) // self.extra)
        self.clock, self.held_out_losses = 0.0, []
        self.bar = tqdm(total=budget.max_steps, disable=not progress, unit="step", leave=False)

    def run(self) -> tuple[Tensor, Status]:
        self._record(0, self.first, True)
        status, step = Status.COMPLETED, 0
        with self.bar:
            for step in range(1, self.budget.max_steps + 1):
                start = spent(self.theta.device)
                if self._due(step) and self._needed():
                    self._add_points(step)
                taken = self.taken.step(self.objective, self.theta)
                finite = bool(taken.theta.isfinite().all()) and math.isfinite(taken.value)
                self.theta = taken.theta if finite else self.theta
                held_out = self.held_out.value(self.theta) if taken.accepted and self.stalls else None
                if taken.finished and finite and self.additions and self._needed():
                    self._add_points(step)
                    taken = replace(taken, finished=False)
                self.clock += spent(self.theta.device) - start  # kernels are made once, not every step
                ended = self._ended(taken, finite, held_out)
                self.accepted += taken.accepted
                if step in self.recorded or ended:
                    self._record(step, taken.value, taken.accepted, held_out)
                if ended:
                    status = ended
                    break
        if status is Status.COMPLETED and not self.history[-1].held_out_loss < BLOW_UP * self.history[0].held_out_loss:
            status = Status.DIVERGED  # in its very last step
        return self.theta, status

    def _due(self, step: int) -> bool:
        every = self.budget.resample_every
        return bool(every) and self.additions > 0 and step > 1 and (step - 1) % every == 0

    def _needed(self) -> bool:
        if self.budget.overfit is None:
            return True
        return not self.held_out.value(self.theta) <= self.budget.overfit * self.objective.value(self.theta)

    def _add_points(self, step: int) -> None:
        grown = grow(self.objective, self.theta, self.extra, seed=1_000_003 * (self.seed + 1) + step)
        self.objective = self.objective.with_points(grown)
        self.additions -= 1

    def _ended(self, taken, finite: bool, held_out: float | None) -> Status | None:
        if not finite or taken.value > BLOW_UP * self.first:
            return Status.DIVERGED
        if taken.finished:
            return Status.CONVERGED
        if held_out is not None:
            self.held_out_losses.append(held_out)
            recent = self.held_out_losses[-STALL_STEPS - 1 :]
            if len(recent) > STALL_STEPS and min(recent[1:]) > (1.0 - STALL_FALL) * recent[0]:
                return Status.CONVERGED
        if self.budget.max_seconds is not None and self.clock >= self.budget.max_seconds:
            return Status.EXHAUSTED
        return None

    def _record(self, step: int, loss: float, accepted: bool, held_out: float | None = None) -> None:
        blocks, theta = self.objective.blocks, self.theta
        record = Record(
            step=step,
            loss=loss,
            held_out_loss=self.held_out.value(theta) if held_out is None else held_out,
            relative_l2=self.judge.error(theta, blocks),
            work=self.clock / self.unit,
            seconds=self.clock,
            step_size=self.taken.h,
            accepted=accepted,
            drift=blocks.drift(theta),
            points=len(self.objective.points["residual"][0]),
        )
        self.history.append(record)
        self.bar.set_postfix_str(
            f"loss {loss:.2e}, held-out {record.held_out_loss:.2e}, step size {record.step_size:.1e}"
        )
        self.bar.update(step - self.bar.n)
