"""Which points the loss is taken at: a first design, points added where the residual is large, and a fixed held-out set."""

from __future__ import annotations

import torch
from torch import Tensor

from pinn_lora.objective import Objective, Points
from pinn_lora.places import ProblemError, place_given
from pinn_lora.problem import Problem
from pinn_lora.ranges import POSITIVE

HELD_OUT_SEED = 2_000_000_011  # far from the seeds that runs use, and the same for all of them
MOST = 1_000_000  # points that the rule for thin layers takes by itself


def first_points(problem: Problem, n: int, *, seed: int, design: str = "sobol") -> dict[str, tuple[Tensor, ...]]:
    """n interior points and n / 10 for every condition (at least 64), as an objective wants them."""
    found: dict[str, tuple[Tensor, ...]] = {}
    for number, (name, _, condition) in enumerate(problem.terms()):
        if condition is None:
            found[name] = (problem.domain.sample(n, seed=seed, design=design),)
        else:
            found[name] = condition.sample(problem.domain, max(n // 10, 64), seed=seed + 1000 * number)
    return found


def held_out_points(problem: Problem, n: int = 2000) -> dict[str, tuple[Tensor, ...]]:
    """Points that nothing is trained on; the same for every run of a problem."""
    return first_points(problem, n, seed=HELD_OUT_SEED)


def layer_points(base: Problem, problem: Problem, *, first: int = 3000) -> int:
    """first * max(1, w(base) / w(problem)), w a problem's `layer_width`: so many points lie across a layer as at the base.
    `first` itself where one of the two states none. ValueError above MOST, ProblemError for a width that is none."""
    wide, thin = (_layer_width(one) for one in (base, problem))
    if wide is None or thin is None:
        return first
    count = round(first * max(1.0, wide / thin))
    if count > MOST:
        raise ValueError(
            f"the layer of {problem!r} is {wide / thin:,.0f} times as thin as that of {base!r}, which asks for {count:,} "
            f"points and at most {MOST:,} are taken; give points, or a base that is nearer"
        )
    return count


def _layer_width(problem: Problem) -> float | None:
    width = problem.layer_width
    if width is not None and width not in POSITIVE:
        place = place_given(type(problem), "layer_width")
        raise ProblemError(f"{place}: layer_width of {problem!r} is {width!r:.60}; it must be {POSITIVE}, or None")
    return width


def grow(objective: Objective, theta: Tensor, extra: int, *, seed: int, candidates: int = 8) -> Points:
    """The objective's points and `extra` more interior ones, drawn from Sobol candidates with probability proportional to
    |r| / mean |r| + 1 (residual-adaptive distribution, Wu et al. 2023, with k = c = 1)."""
    pool = objective.problem.domain.sample(candidates * extra, seed=seed)
    trial = {**objective.points, "residual": (pool,)}
    size = objective.with_points(trial).pointwise(theta).double().cpu()
    weights = size / size.mean() + 1.0 if bool(size.isfinite().all()) and size.sum() > 0 else torch.ones(len(pool))
    generator = torch.Generator().manual_seed(seed)
    chosen = pool[torch.multinomial(weights, extra, generator=generator)]
    return {**objective.points, "residual": (torch.cat([objective.points["residual"][0], chosen]),)}
