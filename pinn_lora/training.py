"""Training: `pretrain` solves one problem from scratch, `finetune` adapts a solution to another member of its family."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pinn_lora.catalog import choose
from pinn_lora.flow import Method
from pinn_lora.initializers import Initializer
from pinn_lora.lora import Blocks, adapt, merge
from pinn_lora.network import MLP
from pinn_lora.objective import Objective, Work
from pinn_lora.optimizers import Optimizer
from pinn_lora.points import first_points, grow, held_out_points
from pinn_lora.presets import Preset, find_preset
from pinn_lora.problem import Problem
from pinn_lora.solution import Record, Solution, Status, grid_points, grid_reference, relative_error

DTYPES = {"float32": torch.float32, "float64": torch.float64}
DIRECT_LIMIT = 3000  # unknowns up to which pretraining takes Gauss-Newton steps by default
STALL_STEPS, STALL_FALL = 20, 0.01  # CONVERGED: the held-out loss fell by under 1 % over 20 accepted steps
BLOW_UP = 1e3  # DIVERGED: the loss exceeds the first one so many times


@dataclass(frozen=True)
class Budget:
    """When a run ends, and when points are added: every `resample_every` steps, by `growth` of the first number, at most up
    to `most` times it. A line search that stops before the last points were added gets the next ones at once."""

    max_steps: int
    max_seconds: float | None = None
    resample_every: int | None = 10
    growth: float = 0.25
    most: float = 3.0


def pretrain(
    problem: Problem,
    *,
    method: str | Method | Optimizer | None = None,
    network: nn.Module | None = None,
    width: int = 24,
    depth: int = 3,
    step_size: float | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    points: int = 3000,
    resample_every: int | None = 10,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    compile: bool = False,
    progress: bool = False,
) -> Solution:
    """Trains all weights of a network on `problem`.

    method: "full-lm" (damped Gauss-Newton, the default up to 3,000 unknowns), "adam-lbfgs" (Adam with decay, then L-BFGS;
    the default above), "full-adam" or "full-lbfgs". The network is an MLP of `depth` x `width` unless given.
    max_steps, where not given, is the method's. weights: by term name, see `Objective`. compile: fused kernels with the
    same numbers; needs a C++ compiler and some seconds for every new shape, so it pays for long runs.
    Raises ValueError for names that do not exist, a given network that is not periodic where the problem counts on it, and
    a loss that is not finite at the start.
    """
    if network is None:
        network = MLP(
            problem.domain, fields=len(problem.fields), width=width, depth=depth, periodic=problem.periodic, seed=seed
        )
    network = _place(copy.deepcopy(network), dtype or torch.float64, device)
    _check_periodic(problem, network)
    blocks = Blocks(network)
    name = method or ("full-lm" if blocks.size <= DIRECT_LIMIT else "adam-lbfgs")
    phases = _pretraining_phases(name, max_steps)
    history: tuple[Record, ...] = ()
    settings = {"method": str(name), "seed": seed, "points": points, "weights": dict(weights or {})}
    solution = Solution(problem, network, None, (), Status.COMPLETED, settings)
    for phase, (preset, steps) in enumerate(phases):
        left = None if max_seconds is None else max(max_seconds - (history[-1].seconds if history else 0.0), 0.0)
        share = left if left is None or phase == len(phases) - 1 else left * 0.5
        every = resample_every if preset.method.implicit or resample_every is None else max(steps // 15, 1)
        budget = Budget(steps, share, every)
        solution = _train(
            replace(solution, history=()),
            preset.method,
            step_size=preset.step_size if step_size is None else step_size,
            budget=budget,
            points=points,
            weights=weights,
            seed=seed,
            compile=compile,
            progress=progress,
        )
        history += _shifted(solution.history, history)
    return replace(solution, history=history)


def _check_periodic(problem: Problem, network: nn.Module) -> None:
    like = next(iter(network.state_dict().values()))
    for name in problem.periodic:
        ends = [problem.domain.sample_face(8, coordinate=name, side=side).to(like) for side in ("lower", "upper")]
        with torch.no_grad():
            left, right = (network(points) for points in ends)
        if not torch.allclose(left, right, rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"{problem!r} counts on a network that is periodic in {name}, and this one is not; "
                f"give it cos and sin of {name}, or leave network= out"
            )


def _pretraining_phases(name: Any, max_steps: int | None) -> list[tuple[Preset, int]]:
    if isinstance(name, (Method, Optimizer)):
        preset = replace(_preset_of(name), trains="all weights", initializer=None)
        return [(preset, preset.max_steps if max_steps is None else max_steps)]
    if name == "adam-lbfgs":
        adam, lbfgs = find_preset("full-adam"), find_preset("full-lbfgs")
        steps = 15_000 if max_steps is None else max_steps
        return [(adam, max(steps // 3, 1)), (lbfgs, max(steps - steps // 3, 1))]
    names = ["adam-lbfgs", "full-lm", "full-adam", "full-lbfgs"]
    preset = find_preset(choose(name, names, what="pretraining method"))
    default = 250 if name == "full-lm" else preset.max_steps
    return [(preset, default if max_steps is None else max_steps)]


def _shifted(later: Sequence[Record], earlier: Sequence[Record]) -> tuple[Record, ...]:
    if not earlier:
        return tuple(later)
    last = earlier[-1]
    return tuple(
        replace(r, step=r.step + last.step, work=r.work + last.work, seconds=r.seconds + last.seconds)
        for r in later[1:]
    )


def finetune(
    base: Solution,
    problem: Problem,
    *,
    method: str | Method | Optimizer = "odelora-implicit",
    rank: int = 4,
    initializer: str | Initializer | None = None,
    targets: str | Sequence[str] = "hidden",
    train_biases: bool = False,
    train_output: bool = False,
    scale: float = 1.0,
    step_size: float | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    points: int = 3000,
    resample_every: int | None = 10,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    compile: bool = False,
    progress: bool = False,
) -> Solution:
    """Adapts `base` to `problem` by factors of the given rank, or by all weights where the method is a "full-" one.

    method: a preset's name, a `Method(metric, lift, integrator)` or an optimizer. The initializer, the first step size and
    the budget are the preset's where not given. Points are kept, and residual-adaptive ones added every `resample_every`
    steps; None adds none. compile: as in `pretrain`. The base is left as it is. Raises ValueError for names that do not
    exist, a rank above a layer's size and a loss that is not finite at the start.
    """
    preset = find_preset(method) if isinstance(method, str) else _preset_of(method)
    whole = preset.trains == "all weights"
    if whole:
        network = merge(base.network)
    else:
        network = adapt(
            merge(base.network),
            rank=rank,
            targets=targets,
            initializer=initializer or preset.initializer or "zero_b",
            scale=scale,
            train_biases=train_biases,
            train_output=train_output,
            seed=seed,
        )
    network = _place(network, dtype, device)
    _check_periodic(problem, network)
    settings = {
        "method": method if isinstance(method, str) else repr(method),
        "rank": None if whole else rank,
        "initializer": None if whole else str(initializer or preset.initializer or "zero_b"),
        "seed": seed,
        "points": points,
        "weights": dict(weights or {}),
    }
    return _train(
        Solution(problem, network, base, (), Status.COMPLETED, settings),
        preset.method,
        step_size=preset.step_size if step_size is None else step_size,
        budget=Budget(preset.max_steps if max_steps is None else max_steps, max_seconds, resample_every),
        points=points,
        weights=weights,
        seed=seed,
        compile=compile,
        progress=progress,
    )


def _preset_of(method: Method | Optimizer) -> Preset:
    if not isinstance(method, (Method, Optimizer)):
        raise ValueError(f"method is {method!r}; give a preset's name, a pl.Method or an optimizer")
    if method.implicit or method.adaptive:
        return Preset("", method, max_steps=80 if method.implicit else 5000)
    return Preset("", method, step_size=1e-3, max_steps=5000)


def _place(network: nn.Module, dtype: str | torch.dtype | None, device: str | torch.device | None) -> nn.Module:
    if isinstance(dtype, str):
        dtype = DTYPES[choose(dtype, list(DTYPES), what="dtype")]
    try:
        return network.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None


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
    """Median seconds of one loss-and-gradient; not counted as work."""
    probe, taken = replace(objective, work=Work()), []
    for _ in range(16):
        start = time.perf_counter()
        probe.gradient(theta)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _train(
    solution: Solution,
    method: Method | Optimizer,
    *,
    step_size: float,
    budget: Budget,
    points: int,
    weights: Mapping[str, float] | None,
    seed: int,
    compile: bool,
    progress: bool,
) -> Solution:
    problem, network = solution.problem, solution.network
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"the step size is {step_size}; it must be a positive number")
    if budget.max_steps < 1:
        raise ValueError(f"max_steps is {budget.max_steps}; it must be at least 1")
    blocks = Blocks(network)
    theta = blocks.read(network)
    chosen = first_points(problem, points, seed=seed)
    objective = Objective(problem, network, blocks, chosen, weights or {}, compile=compile)
    held_out = replace(objective, points=held_out_points(problem), work=Work())
    first = objective.value(theta)
    if not math.isfinite(first):
        raise ValueError(f"the loss of {problem!r} is {first} before the first step; check its residual and conditions")
    loop = _Loop(solution, method, objective, held_out, theta, budget, first, step_size, seed, progress)
    theta, status = loop.run()
    blocks.write(network, theta)
    settings = {
        **solution.settings,
        "step_size": step_size,
        "unknowns": blocks.size,
        "unit_seconds": loop.unit,
        "accepted": loop.accepted,
        "threads": torch.get_num_threads(),
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
                start = time.perf_counter()
                if self._due(step):
                    self._add_points(step)
                taken = self.taken.step(self.objective, self.theta)
                finite = bool(taken.theta.isfinite().all()) and math.isfinite(taken.value)
                self.theta = taken.theta if finite else self.theta
                held_out = self.held_out.value(self.theta) if taken.accepted and self.stalls else None
                if taken.finished and finite and self.additions:
                    self._add_points(step)
                    taken = replace(taken, finished=False)
                self.clock += time.perf_counter() - start
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
