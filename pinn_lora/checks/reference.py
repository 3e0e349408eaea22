"""Checks of the reference: finite, in every condition and in the equation, and equal to what the ansatz builds in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from pinn_lora.checks.findings import Finding, Verdict, judged
from pinn_lora.checks.misfit import Misfit, Reference, Sizes
from pinn_lora.checks.runs import FACE, INSIDE, SEED, Run, run_of
from pinn_lora.domain import Domain
from pinn_lora.networks.mlp import MLP
from pinn_lora.places import ProblemError, place_of
from pinn_lora.problem import Problem, periodic, spelled

GRID = {1: 401, 2: 41, 3: 13}  # points a coordinate at which the reference must be finite; in more, 2,000 in all


def check_reference(problem: Problem, runs: Sequence[Run], tolerance: float) -> Iterator[Finding]:
    """The reference: finite, and in every term; periodic where the problem says so; equal to what the ansatz builds in."""
    if not problem.has_reference:
        yield Finding("reference", Verdict.UNCHECKED, "there is none, so that no error can be reported")
        return
    size = GRID.get(problem.domain.dimension)
    points = problem.domain.grid(size)[1] if size else problem.domain.sample(2000, seed=SEED)
    try:
        problem.reference_values(points)
        yield judged("reference", False, f"finite at {len(points):,} points" + (", corners included" if size else ""))
        ends = [
            run_of(problem, f"periodic {name}", condition.operator, condition)
            for name in problem.periodic
            for k in range(len(problem.fields))
            for condition in [periodic(on=name, derivatives=1, field=k)]
        ]
        everywhere, reference = [*runs, *ends], Reference(problem)
        inside = problem.domain.sample(INSIDE, seed=SEED)
        sizes = reference.sizes(inside, (index for run in everywhere for index in run.term.indices))
        for run in everywhere:
            found = reference.misfits(run.term, run.sets)
            for k, misfit in enumerate(found, start=1):
                name = run.term.name if len(found) == 1 else f"{run.term.name} {k}"
                yield _held(problem, run, name, misfit, sizes, tolerance)
        if type(problem).ansatz is not Problem.ansatz:
            yield from _built_in(problem, tolerance)
    except ProblemError as error:
        yield judged("reference", True, str(error))


def _held(problem: Problem, run: Run, name: str, misfit: Misfit, sizes: Sizes, tolerance: float) -> Finding:
    """Whether a component is zero at the reference.

    By its root mean square, which sees what is wrong in one place, and by its median, which one kink does not hide: each
    may be what is allowed, and ten times by how much differencing is uncertain in the same measure.
    """
    indices = run.term.indices
    scale = max(misfit.scale(indices, sizes), 1e-12)
    allowed = tolerance * (10.0 if len(indices) > 1 else 1.0)
    size, noise = np.abs(misfit.value) / scale, 10.0 * misfit.uncertain / scale
    if not len(size):
        return Finding(name, Verdict.UNCHECKED, "no difference of the reference fits into the domain at its points")
    bad = np.flatnonzero(~np.isfinite(size))
    if len(bad):
        where = problem.domain.spell(misfit.points[bad[0]])
        return judged(name, True, f"{run.term.place}: it is not finite at the reference, at {where}")
    measures = [lambda x: float(np.sqrt(np.mean(x**2))), lambda x: float(np.median(x))]
    wrong = any(measure(size) > allowed + measure(noise) for measure in measures)
    left, unsure = measures[0](size), min(measure(noise) for measure in measures)
    if not wrong and unsure > 0.5:
        says = f"the reference is too rough to be differenced: uncertain by {unsure / 10:.1g} of the size of the terms"
        return Finding(name, Verdict.UNCHECKED, says, left)
    worst = int(np.argmax(np.abs(misfit.value)))
    where = problem.domain.spell(misfit.points[worst])
    if run.condition is None:
        says = f"the reference leaves {left:.1g} of the size of its terms"
        blame = f"{run.term.place}: {says}, most at {where} (allowed {allowed:.0e}, certain to {unsure / 10:.0e})"
        either = ": the residual or the reference is wrong"
        return judged(name, wrong, blame + either + _hint(problem, run, misfit) if wrong else says, left)
    miss = abs(misfit.value[worst])
    says = f"the reference meets it to {miss:.1g}"
    blame = f"the reference misses it by {miss:.2g} at {where} (allowed {allowed * scale:.0e}): one of the two is wrong"
    return judged(name, wrong, f"{run.term.place}: {blame}" if wrong else says, left)


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
    sizes = Reference(problem).sizes(domain.sample(INSIDE, seed=SEED), [()])[()]
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
