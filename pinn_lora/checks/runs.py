"""The terms of a problem that run, with the points they are checked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pinn_lora.domain import Domain
from pinn_lora.places import place_of
from pinn_lora.problem import Condition, Problem
from pinn_lora.terms import Term

INSIDE, FACE, SEED = 48, 24, 5  # points inside, points on the faces of a condition, and their seed


@dataclass(frozen=True)
class Run:
    """A term that runs, with the points it is checked at: one set, or two where it is paired."""

    term: Term
    condition: Condition | None
    sets: tuple[Tensor, ...]


def points_inside(domain: Domain) -> Tensor:
    """Points (48, d), four at each of twelve instants: a reference by time steps is solved on to every other instant anew."""
    points = domain.sample(INSIDE, seed=SEED)
    if "t" in domain.names:
        t = domain.names.index("t")
        points[:, t] = points[::4, t].repeat_interleave(4)
    return points


def run_of(problem: Problem, name: str, operator: Any, condition: Condition | None) -> Run:
    """The term with its points. ProblemError where it asks for what is not there or gives a wrong shape."""
    paired = bool(condition and condition.paired)
    place = condition.place if condition else place_of(operator)
    domain = problem.domain
    sets = condition.sample(domain, FACE, seed=SEED) if condition else (points_inside(domain),)
    indices = problem.needed(operator, paired=paired, points=sets[0], place=place)
    return Run(Term(name, operator, 1.0, indices, paired, place), condition, sets)
