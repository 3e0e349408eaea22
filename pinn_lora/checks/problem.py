"""Checks of a problem before anything is trained on it: what it says of itself, put against autograd and its reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from pinn_lora.checks.findings import Finding, Verdict, any_wrong, judged
from pinn_lora.checks.network import check_network
from pinn_lora.checks.reference import check_reference
from pinn_lora.checks.runs import SEED, Run, run_of
from pinn_lora.declaration import mistakes, not_frozen
from pinn_lora.domain import BOUNDARY
from pinn_lora.fields import Coordinates, Field, spelled
from pinn_lora.places import ProblemError
from pinn_lora.problem import Condition, Problem
from pinn_lora.ranges import POSITIVE

TOLERANCE = 1e-5  # of the size of its terms, for what needs no derivative of the reference; ten times it for what does


def check_problem(problem: Problem, *, tolerance: float = TOLERANCE) -> list[Finding]:
    """One finding a check, in the order in which they are best mended; nothing is trained.

    The class and its domain; where points are sampled; the residual and every condition at a random smooth network, by jets
    and by torch.func; the ansatz; and the reference: finite, in every condition, in the equation, periodic where it is said
    to be. `tolerance` is relative to the size of a term at the reference, ten times as large where that is differenced; what
    cannot be told to ten times that, or to a hundredth, is not said to hold. ValueError for a tolerance that is not positive.
    """
    if tolerance not in POSITIVE:
        raise ValueError(f"tolerance is {tolerance!r}; it must be {POSITIVE}")
    found = list(_structure(problem))
    if not any_wrong(found):
        found += _sampling(problem)
    if any_wrong(found):
        return [*found, Finding("the rest", Verdict.UNCHECKED, "it needs what is wrong above")]
    runs, more = _terms(problem)
    found += more
    if not any_wrong(found):
        found += check_network(problem, runs)
    return found + list(check_reference(problem, runs, tolerance))


# What the class says of itself


def _structure(problem: Problem) -> Iterator[Finding]:
    cls = type(problem)
    parameters = getattr(cls, "__dataclass_params__", None)
    frozen = parameters is not None and parameters.frozen
    says = "a frozen dataclass" if frozen else not_frozen(cls)
    given = dataclasses.fields(cls) if frozen else ()  # type: ignore[arg-type]
    bare = [f.name for f in given if f.init and f.default is f.default_factory is dataclasses.MISSING]
    if bare:
        says += f"; without a default, so that it needs --set: {', '.join(bare)}"
    yield judged("class", not frozen, says)
    try:
        wrong = list(mistakes(problem))
    except ProblemError as error:
        wrong = [("class", str(error))]
    for name, says in wrong:
        yield judged(name, True, says)
    if wrong:
        return
    domain = problem.domain
    hidden = [name for name in domain.names if hasattr(Field, name) or hasattr(Coordinates, name)]
    says = f"the coordinate {hidden[0]!r} is hidden by a method of that name: give it another name" if hidden else ""
    yield judged("domain", bool(hidden), says or repr(domain))


def _sampling(problem: Problem) -> Iterator[Finding]:
    """Points of the domain and of every condition: inside, and on the faces they are meant for."""
    domain = problem.domain
    points = domain.sample(512, seed=SEED)
    outside = points[~domain.contains(points)]
    where = f", the first at {domain.spell(outside[0])}" if len(outside) else ""
    says = f"{len(outside)} of {len(points)} points that the domain gives lie outside of it{where}"
    yield judged("sampling", bool(len(outside)), says if len(outside) else f"all of {len(points)} points lie inside")
    try:
        terms = problem.terms()
    except ProblemError as error:
        yield judged("conditions", True, str(error))
        return
    for name, _, condition in terms:
        if condition is not None:
            yield from _faces(problem, name, condition)


def _faces(problem: Problem, name: str, condition: Condition) -> Iterator[Finding]:
    domain = problem.domain
    try:
        points = torch.cat(condition.sample(domain, 64, seed=SEED))
    except ProblemError as error:
        yield judged(name, True, str(error))
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
        yield judged(
            name, True, f"{len(astray)} of {len(points)} points are not on its faces: {domain.spell(astray[0])}"
        )


def _terms(problem: Problem) -> tuple[list[Run], list[Finding]]:
    """The residual and the conditions that can be run, and a finding for each: what they ask for, or what stops them."""
    runs, found = [], []
    for name, operator, condition in problem.terms():
        try:
            run = run_of(problem, name, operator, condition)
        except ProblemError as error:
            found.append(judged(name, True, str(error)))
            continue
        asked = [spelled(index, problem.domain.names) for index in run.term.indices if index]
        runs.append(run)
        found.append(judged(name, False, f"runs; it asks for {_derivatives(asked)}"))
    return runs, found


def _derivatives(names: list[str]) -> str:
    return f"the derivative{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else "no derivative"
