"""Checks of a problem before anything is trained on it: what it says of itself, put against autograd and its reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinn_lora.checks.misfit import Misfit, Reference, Sizes
from pinn_lora.domain import BOUNDARY, Domain
from pinn_lora.engines import FunctionalEngine, JetEngine
from pinn_lora.jets import Jet, closure
from pinn_lora.lora import Blocks
from pinn_lora.networks.mlp import MLP
from pinn_lora.places import ProblemError, place_of, sentence
from pinn_lora.problem import Condition, Coordinates, Field, Problem, periodic, spelled
from pinn_lora.terms import Term

TOLERANCE = 1e-5  # of the size of its terms, for what needs no derivative of the reference; ten times it for what does
AGREE = 1e-8  # jets and torch.func err by roundings alone, which a fourth derivative multiplies by some 1e4
INSIDE, FACE, SEED = 48, 24, 5  # points inside, points on the faces of a condition, and their seed
GRID = {1: 401, 2: 41, 3: 13}  # points a coordinate at which the reference must be finite; in more, 2,000 in all


class Verdict(StrEnum):
    OK = "ok"
    WRONG = "WRONG"
    UNCHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """What was checked, how it came out, the sentence that says so, and the number that was measured."""

    what: str
    verdict: Verdict
    sentence: str
    number: float | None = None


@dataclass(frozen=True)
class Run:
    """A term that runs, with the points it is checked at: one set, or two where it is paired."""

    term: Term
    condition: Condition | None
    sets: tuple[Tensor, ...]


def check_problem(problem: Problem, *, tolerance: float = TOLERANCE) -> list[Finding]:
    """One finding a check, in the order in which they are best mended; nothing is trained.

    The class and its domain; where points are sampled; the residual and every condition at a random smooth network, by jets
    and by torch.func; the ansatz; and the reference: finite, in every condition, in the equation, periodic where it is said
    to be. `tolerance` is relative to the size of a term at the reference, ten times as large where that is differenced.
    """
    found = list(_structure(problem))
    if not _wrong(found):
        found += _sampling(problem)
    if _wrong(found):
        return [*found, Finding("the rest", Verdict.UNCHECKED, "it needs what is wrong above")]
    runs, more = _terms(problem)
    found += more
    if not _wrong(found):
        found += _network(problem, runs)
    return found + list(_reference(problem, runs, tolerance))


def report_lines(findings: Sequence[Finding]) -> list[str]:
    """The findings, one line each, and how many are wrong."""
    marks = {Verdict.OK: "ok", Verdict.WRONG: "WRONG", Verdict.UNCHECKED: "-"}
    width = max(len(finding.what) for finding in findings)
    lines = [f"  {marks[f.verdict]:<5}  {f.what:<{width}}  {f.sentence}" for f in findings]
    wrong = sum(finding.verdict is Verdict.WRONG for finding in findings)
    checked = sum(finding.verdict is not Verdict.UNCHECKED for finding in findings)
    return [*lines, f"{checked} checks, {wrong or 'none'} wrong"]


def _wrong(findings: Sequence[Finding]) -> bool:
    return any(finding.verdict is Verdict.WRONG for finding in findings)


def _judged(what: str, wrong: bool, sentence: str, number: float | None = None) -> Finding:
    return Finding(what, Verdict.WRONG if wrong else Verdict.OK, sentence, number)


# What the class says of itself


def _structure(problem: Problem) -> Iterator[Finding]:
    cls = type(problem)
    parameters = getattr(cls, "__dataclass_params__", None)
    frozen = parameters is not None and parameters.frozen
    says = "a frozen dataclass" if frozen else f"{cls.__name__} is none: write @dataclass(frozen=True) above it"
    given = dataclasses.fields(cls) if frozen else ()  # type: ignore[arg-type]
    bare = [f.name for f in given if f.init and f.default is f.default_factory is dataclasses.MISSING]
    if bare:
        says += f"; without a default, so that it needs --set: {', '.join(bare)}"
    yield _judged("class", not frozen, says)
    for name in ("fields", "periodic"):
        value = getattr(problem, name)
        if isinstance(value, str):
            yield _judged(name, True, f'{name} is the text {value!r}; write a tuple, {name} = ("{value}",)')
    domain = getattr(problem, "domain", None)
    if not isinstance(domain, Domain):
        yield _judged(
            "domain", True, f"{cls.__name__} has no domain: write domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 1.0))"
        )
        return
    hidden = [name for name in domain.names if hasattr(Field, name) or hasattr(Coordinates, name)]
    strange = [name for name in problem.periodic if name not in domain.names]
    if hidden:
        yield _judged(
            "domain", True, f"the coordinate {hidden[0]!r} is hidden by a method of that name: give it another name"
        )
    elif strange:
        choices = ", ".join(domain.names)
        yield _judged("domain", True, f"periodic names {strange[0]!r}, which is no coordinate (coordinates: {choices})")
    else:
        yield _judged("domain", False, repr(domain))


def _sampling(problem: Problem) -> Iterator[Finding]:
    """Points of the domain and of every condition: inside, and on the faces they are meant for."""
    domain = problem.domain
    points = domain.sample(512, seed=SEED)
    outside = points[~domain.contains(points)]
    where = f", the first at {domain.spell(outside[0])}" if len(outside) else ""
    says = f"{len(outside)} of {len(points)} points that the domain gives lie outside of it{where}"
    yield _judged("sampling", bool(len(outside)), says if len(outside) else f"all of {len(points)} points lie inside")
    try:
        terms = problem.terms()
    except Exception as error:  # the user's own code
        yield _judged("conditions", True, sentence(error))
        return
    for name, _, condition in terms:
        if condition is not None:
            yield from _faces(problem, name, condition)


def _faces(problem: Problem, name: str, condition: Condition) -> Iterator[Finding]:
    domain = problem.domain
    try:
        points = torch.cat(condition.sample(domain, 64, seed=SEED))
    except ProblemError as error:
        yield _judged(name, True, str(error))
        return
    on = torch.zeros(len(points), dtype=torch.bool)
    for face, side in condition.faces:
        if face == BOUNDARY:
            on |= True
        else:
            bound = {"lower": domain.lower, "upper": domain.upper}[side]
            on |= points[:, domain.number(face)] == bound[domain.number(face)]
    astray = points[~domain.contains(points) | (~on if condition.faces else False)]
    if len(astray):
        yield _judged(
            name, True, f"{len(astray)} of {len(points)} points are not on its faces: {domain.spell(astray[0])}"
        )


# What runs


def _terms(problem: Problem) -> tuple[list[Run], list[Finding]]:
    """The residual and the conditions that can be run, and a finding for each: what they ask for, or what stops them."""
    runs, found = [], []
    for name, operator, condition in problem.terms():
        try:
            run = _run(problem, name, operator, condition)
        except ProblemError as error:
            found.append(_judged(name, True, str(error)))
            continue
        asked = [spelled(index, problem.domain.names) for index in run.term.indices if index]
        runs.append(run)
        found.append(_judged(name, False, f"runs; it asks for {_derivatives(asked)}"))
    return runs, found


def _derivatives(names: list[str]) -> str:
    return f"the derivative{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else "no derivative"


def _run(problem: Problem, name: str, operator: Any, condition: Condition | None) -> Run:
    """The term with its points. ProblemError where it asks for what is not there or gives a wrong shape."""
    paired = bool(condition and condition.paired)
    place = condition.place if condition else place_of(operator)
    domain = problem.domain
    sets = condition.sample(domain, FACE, seed=SEED) if condition else (domain.sample(INSIDE, seed=SEED),)
    indices = problem.needed(operator, paired=paired, points=sets[0], place=place)
    return Run(Term(name, operator, 1.0, indices, paired, place), condition, sets)


def _network(problem: Problem, runs: Sequence[Run]) -> Iterator[Finding]:
    """Every term at a random smooth network: finite, seen by the network, and the same by jets as by torch.func."""
    network = MLP(
        problem.domain, fields=len(problem.fields), width=8, depth=2, periodic=problem.periodic, seed=SEED
    ).requires_grad_()
    blocks = Blocks(network)
    theta, jets, functional = (
        blocks.read(network),
        JetEngine(problem, network, blocks),
        FunctionalEngine(problem, network, blocks),
    )
    apart = 0.0
    for run in runs:
        try:
            r, J = jets.jacobian(jets.bind(theta), jets.prepare(run.term, run.sets))
            other = torch.stack(functional.residuals(theta, functional.prepare(run.term, run.sets)))
        except ProblemError as error:
            yield _judged(run.term.name, True, str(error))
            return
        bad = (~r.isfinite()).any(0).nonzero()
        if len(bad):
            where = problem.domain.spell(run.sets[0][int(bad[0])])
            yield _judged(run.term.name, True, f"{run.term.place}: it is not finite for a smooth u, at {where}")
            return
        blind = [k for k in range(len(J)) if not bool(J[k].any())] if run.condition is None else []
        if blind:
            which = f"component {blind[0] + 1} of it" if len(J) > 1 else "it"
            yield _judged("residual", True, f"{run.term.place}: {which} does not depend on the unknown")
            return
        apart = max(apart, float((r - other).abs().max() / r.abs().max().clamp_min(1e-300)))
    says = f"jets and torch.func agree to {apart:.0e}"
    blame = f"{place_of(problem.ansatz)}: {says} only: something in the ansatz or in a residual is not differentiated"
    yield _judged("derivatives", apart > AGREE, blame if apart > AGREE else says, apart)
    if type(problem).ansatz is not Problem.ansatz:
        yield from _ansatz(problem, network)


def _ansatz(problem: Problem, network: MLP) -> Iterator[Finding]:
    """The ansatz of a random network: the same from jets as from tensors, and periodic where the problem says so."""
    place, points = place_of(problem.ansatz), problem.domain.sample(INSIDE, seed=SEED)
    with torch.no_grad():
        plain = torch.stack(problem.solution(points, network))
        carried = _carried(problem, network, points, ())
    apart = float((plain - carried).abs().max() / plain.abs().max().clamp_min(1e-300))
    says = f"tensors and jets agree to {apart:.0e}"
    yield _judged("ansatz", apart > AGREE, says if apart <= AGREE else f"{place}: {says} only", apart)
    for name in problem.periodic:
        left, right = (
            problem.domain.sample_face(FACE, coordinate=name, side=side, seed=SEED) for side in ("lower", "upper")
        )
        number = problem.domain.number(name)
        second = any(index.count(number) > 1 for index in problem.needed(problem.residual))
        for index, what in (((), "the ansatz"), ((number,), f"the ansatz's derivative in {name}"))[: 1 + second]:
            ends = [_carried(problem, network, points, index) for points in (left, right)]
            gap, size = float((ends[0] - ends[1]).abs().max()), float(ends[0].abs().max())
            if gap > AGREE * max(size, float(plain.abs().max())):
                says = f"{place}: periodic names {name}, and {what} differs by {gap:.2g} between its two ends"
                yield _judged("ansatz", True, says, gap)


def _carried(problem: Problem, network: MLP, points: Tensor, index: tuple[int, ...]) -> Tensor:
    """The derivative of the ansatz (fields, n) that `index` names, by jets."""
    indices = closure([index])
    jets = [Jet.coordinate(points, i, indices) for i in range(problem.domain.dimension)]
    found = problem.solution_jets(jets, network.jets(points, [index]), indices)
    return torch.stack([field.jet.data[indices.index(index)] for field in found])


# The reference


def _reference(problem: Problem, runs: Sequence[Run], tolerance: float) -> Iterator[Finding]:
    """The reference: finite, and in every term; periodic where the problem says so; equal to what the ansatz builds in."""
    if not problem.has_reference:
        yield Finding("reference", Verdict.UNCHECKED, "there is none, so that no error can be reported")
        return
    size = GRID.get(problem.domain.dimension)
    points = problem.domain.grid(size)[1] if size else problem.domain.sample(2000, seed=SEED)
    try:
        problem.reference_values(points)
        yield _judged("reference", False, f"finite at {len(points):,} points" + (", corners included" if size else ""))
        ends = [
            _run(problem, f"periodic {name}", condition.operator, condition)
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
        yield _judged("reference", True, str(error))


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
        return _judged(name, True, f"{run.term.place}: it is not finite at the reference, at {where}")
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
        return _judged(name, wrong, blame + either + _hint(problem, run, misfit) if wrong else says, left)
    miss = abs(misfit.value[worst])
    says = f"the reference meets it to {miss:.1g}"
    blame = f"the reference misses it by {miss:.2g} at {where} (allowed {allowed * scale:.0e}): one of the two is wrong"
    return _judged(name, wrong, f"{run.term.place}: {blame}" if wrong else says, left)


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
            yield _judged("ansatz", wrong, f"{place_of(problem.ansatz)}: {blame}" if wrong else says, most)


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
