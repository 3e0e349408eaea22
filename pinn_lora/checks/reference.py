"""Checks of the reference: finite, in every condition and in the equation, and equal to what the ansatz builds in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from pinn_lora.checks.findings import Finding, Verdict, judged
from pinn_lora.checks.misfit import Misfit, Reference, Sizes
from pinn_lora.checks.runs import FACE, SEED, Run, points_inside, run_of
from pinn_lora.domain import Domain
from pinn_lora.fields import spelled
from pinn_lora.networks.mlp import MLP
from pinn_lora.places import ProblemError, naming, place_of
from pinn_lora.problem import Problem, periodic
from pinn_lora.ranges import NOT_NEGATIVE

TOLD = 0.9  # of the points: at so many a term is held before it is said to hold
COARSE = 1e-2  # of the size of its terms: what is known no better is not said to hold
GRID = {1: 401, 2: 41, 3: 13}  # points a coordinate at which the reference must be finite; in more, 2,000 in all


def check_reference(problem: Problem, runs: Sequence[Run], tolerance: float) -> Iterator[Finding]:
    """The reference: finite, and in every term; periodic where the problem says so; equal to what the ansatz builds in."""
    if not problem.has_reference:
        yield Finding("reference", Verdict.UNCHECKED, "there is none, so that no error can be reported")
        return
    size = GRID.get(problem.domain.dimension)
    points = problem.domain.grid(size)[1] if size else problem.domain.sample(2000, seed=SEED)
    try:
        if not problem.reference_values(points).any():
            says = f"{place_of(problem.reference)}: it is 0 at all of {len(points):,} points: no relative error can be taken"
            yield judged("reference", True, says)
            return
        says = f"finite at {len(points):,} points" + (", corners included" if size else "")
        stated = _stated_error(problem)
        if stated is not None:
            says += f"; it errs by {stated:.1g} at most, by its own account"
        yield Finding("reference", Verdict.OK if (stated or 0.0) <= COARSE else Verdict.UNKNOWN, says, stated)
        ends = [
            run_of(problem, f"periodic {name}", condition.operator, condition)
            for name in problem.periodic
            for k in range(len(problem.fields))
            for condition in [periodic(on=name, derivatives=1, field=k)]
        ]
        everywhere, reference = [*runs, *ends], Reference(problem)
        inside = points_inside(problem.domain)
        sizes = reference.sizes(inside, (index for run in everywhere for index in run.term.indices))
        for run in everywhere:
            found = reference.misfits(run.term, run.sets)
            for k, misfit in enumerate(found, start=1):
                name = run.term.name if len(found) == 1 else f"{run.term.name} {k}"
                yield _held(problem, run, name, misfit, sizes, tolerance, stated or 0.0)
        if type(problem).ansatz is not Problem.ansatz:
            yield from _built_in(problem, tolerance)
    except ProblemError as error:
        yield judged("reference", True, str(error))


def _stated_error(problem: Problem) -> float | None:
    """The relative L2 error that the reference states of itself; None where it is exact. ProblemError for what is no error."""
    place = place_of(problem.reference_error)
    with naming(problem, place):
        stated = problem.reference_error()
    if stated is not None and stated not in NOT_NEGATIVE:
        raise ProblemError(f"{place}: reference_error gives {stated!r:.60}; it must be {NOT_NEGATIVE}, or None")
    return stated


def _held(
    problem: Problem, run: Run, name: str, misfit: Misfit, sizes: Sizes, tolerance: float, stated: float
) -> Finding:
    """Whether a component is zero at the reference, whose own relative error is `stated`.

    It is wrong by its root mean square, which sees what is wrong in one place, by its median, which one kink does not hide, or
    by the points at which differencing is certain: each may be what is allowed, and ten times by how much differencing is
    uncertain in the same measure. It holds where size and uncertainty together stay below `_sharp` at nine points in ten.
    """
    indices, place = run.term.indices, run.term.place
    scale = max(misfit.scale(indices, sizes), 1e-12)
    allowed = tolerance * (10.0 if len(indices) > 1 else 1.0)
    size, noise = np.abs(misfit.value) / scale, 10.0 * misfit.uncertain / scale + stated
    if not len(size):
        return Finding(name, Verdict.UNKNOWN, "no difference of the reference fits into the domain at its points")
    bad = np.flatnonzero(~np.isfinite(size))
    if len(bad):
        where = problem.domain.spell(misfit.points[bad[0]])
        return judged(name, True, f"{place}: it is not finite at the reference, at {where}")
    limit = _sharp(allowed)
    certain, told = noise <= limit, size + noise <= limit
    wrong = any(measure(size) > allowed + measure(noise) for measure in (_rms, np.median))
    wrong |= certain.mean() > 0.5 and _rms(size[certain]) > limit
    if wrong:
        return judged(name, True, f"{place}: {_missed(problem, run, misfit, scale, noise, allowed)}", _rms(size))
    if told.mean() < TOLD:
        level = float(np.quantile(size + noise, TOLD))
        why = "errs by too much, by its own account" if stated > limit else "is too rough for its differences"
        says = f"the reference {why}, at {(~told).sum()} of {len(told)} points"
        return Finding(name, Verdict.UNKNOWN, f"{says}; it may leave {level:.1g} of the size of its terms", level)
    left, most = _rms(size[told]), float(np.abs(misfit.value[told]).max())
    says = f"meets it to {most:.1g}" if run.condition else f"leaves {left:.1g} of the size of its terms"
    rest = "" if told.all() else f"; at {(~told).sum()} of {len(told)} points it is too rough to tell"
    return judged(name, False, f"the reference {says}{rest}", left)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _sharp(allowed: float) -> float:
    """What is said to hold is held to this: ten times what is allowed, but a hundredth at most unless more is allowed."""
    return max(allowed, min(10.0 * allowed, COARSE))


def _missed(problem: Problem, run: Run, misfit: Misfit, scale: float, noise: np.ndarray, allowed: float) -> str:
    """By how much and where the reference misses a component."""
    worst = int(np.argmax(np.abs(misfit.value)))
    where = problem.domain.spell(misfit.points[worst])
    if run.condition is None:
        left, unsure = _rms(misfit.value) / scale, min(_rms(noise), float(np.median(noise))) / 10.0
        says = f"the reference leaves {left:.1g} of the size of its terms, most at {where}"
        either = "the residual or the reference is wrong"
        return f"{says} (allowed {allowed:.0e}, certain to {unsure:.0e}): {either}{_hint(problem, run, misfit)}"
    miss = abs(misfit.value[worst])
    return f"the reference misses it by {miss:.2g} at {where} (allowed {allowed * scale:.0e}): one of the two is wrong"


def _hint(problem: Problem, run: Run, misfit: Misfit) -> str:
    """Which derivative's terms, with another factor, would make the residual fit; "" where none would."""
    r, found = misfit.value, []
    for index, parts in zip(run.term.indices, misfit.parts, strict=True):
        for field, part in zip(problem.fields, parts, strict=True):
            factor = (r @ part) / max(part @ part, 1e-300)
            if np.linalg.norm(r - factor * part) < 1e-3 * np.linalg.norm(r):
                name = ".".join([field, spelled(index, problem.domain.names)]).rstrip(".")
                found.append(f"{1.0 - factor:.4g} times its terms in {name}")
    return f"; it would fit with {' or '.join(found)}" if found else ""


def _built_in(problem: Problem, tolerance: float) -> Iterator[Finding]:
    """The faces on which two random networks give the same solution: there the reference must be that solution."""
    domain, shape = problem.domain, {"fields": len(problem.fields), "periodic": problem.periodic}
    networks = [MLP(domain, width=8, depth=2, seed=seed, **shape) for seed in (1, 2)]
    sizes = Reference(problem).sizes(points_inside(domain), [()])[()]
    for at, points in _boundary(domain):
        with torch.no_grad():
            u, v = (torch.stack(problem.solution(points, network), 1).numpy() for network in networks)
        gap, true = np.abs(u - v).max(axis=0), problem.reference_values(points)
        for k, field in enumerate(problem.fields):
            scale = max(float(sizes[k]), float(np.abs(u[:, k]).max()), 1e-12)
            if gap[k] > 1e-12 * scale:
                continue
            miss = np.abs(u[:, k] - true[:, k])
            wrong, most = float(np.sqrt(np.mean(miss**2))) > tolerance * scale, float(miss.max())
            blame = f"{at} it gives a {field} that misses the reference by {most:.2g}, whatever the network says"
            says = f"{at} it is the reference, to {most:.1g}, whatever the network says"
            yield judged("ansatz", wrong, f"{place_of(problem.ansatz)}: {blame}" if wrong else says, most)


def _boundary(domain: Domain) -> Iterator[tuple[str, Tensor]]:
    """The parts of a domain's boundary, in words, with points on them."""
    for number, name in enumerate(domain.names):
        for side, bounds in (("lower", domain.lower), ("upper", domain.upper)):
            with suppress(ValueError):  # a round domain has no such face
                yield (
                    f"at {name} = {bounds[number]:.4g}",
                    domain.sample_face(FACE, coordinate=name, side=side, seed=SEED),
                )
    if type(domain) is not Domain:
        with suppress(ValueError):  # an interval of time has none
            yield "on the boundary", domain.sample_boundary(2 * FACE, seed=SEED)
