"""Which members of a family are near each other, and from which one each is reached: a minimum spanning tree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pinn_lora.catalog import choose
from pinn_lora.problem import Problem

Distance = Callable[[Problem, Problem], float]


def coefficients(problem: Problem) -> dict[str, Any]:
    """A problem's coefficients by name. ValueError for a class that is no dataclass."""
    if not dataclasses.is_dataclass(problem):
        name = type(problem).__name__
        raise ValueError(
            f"{name} has no coefficients to tell members apart: make it a dataclass, @dataclass(frozen=True)"
        )
    return {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}


def varying(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """The coefficients that are not the same in all problems of one class, with the value of each problem."""
    for problem in problems:
        if type(problem) is not type(problems[0]):
            mine, other = type(problems[0]).__name__, type(problem).__name__
            raise ValueError(f"a family is of one class, and here are {mine} and {other}")
    held = [coefficients(problem) for problem in problems]
    columns = {name: [values[name] for values in held] for name in held[0]}
    return {name: column for name, column in columns.items() if any(value != column[0] for value in column)}


def is_number(value: Any) -> bool:
    """Whether a coefficient is a finite number."""
    return (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def is_ratio(values: Sequence[Any]) -> bool:
    """Whether a coefficient is positive in all problems, so that a ratio of it means the same everywhere."""
    return all(is_number(value) and value > 0 for value in values)


def coefficient_distance(problems: Sequence[Problem]) -> Distance:
    """d(a, b)^2 = sum_c d_c^2 over the numeric coefficients c that vary among `problems`: d_c = |log(a_c / b_c)| where all
    values of c are positive, |a_c - b_c| / (max c - min c) otherwise.

    Raises ValueError for problems of several classes, and for a coefficient that varies and is no finite number.
    """
    spans: dict[str, float | None] = {}
    for name, values in varying(problems).items():
        for value in values:
            if not is_number(value):
                raise ValueError(
                    f"the coefficient {name} varies and is {value!r}, no finite number; give distance= to solve_family"
                )
        spans[name] = None if is_ratio(values) else max(values) - min(values)

    def distance(a: Problem, b: Problem) -> float:
        parts = []
        for name, span in spans.items():
            left, right = getattr(a, name), getattr(b, name)
            parts.append(math.log(left / right) if span is None else (left - right) / span)
        return math.hypot(*parts)

    return distance


def checked(distance: Distance) -> Distance:
    """The same distance, which raises ValueError where it is not a finite number of at least 0."""
    if not callable(distance):
        raise ValueError(f"distance is {distance!r}; give a function of two problems")

    def between(a: Problem, b: Problem) -> float:
        told = distance(a, b)
        try:
            found = float(told)
        except (TypeError, ValueError):
            found = math.nan
        if not (math.isfinite(found) and found >= 0):
            raise ValueError(f"the distance from {a!r} to {b!r} is {told!r}; it must be a finite number of at least 0")
        return found

    return between


def spanning_tree(base: Problem, members: Sequence[Problem], distance: Distance) -> list[tuple[int, int | None]]:
    """(member, parent) in the order in which a minimum spanning tree grows from the base (Prim 1957): next comes the
    member nearest to the tree, and its parent is the nearest problem in it; None is the base. Ties go to the base, then to
    the earlier one. ValueError as for `checked`.
    """
    between = checked(distance)
    nearest: dict[int, tuple[float, int | None]] = {i: (between(base, m), None) for i, m in enumerate(members)}
    order: list[tuple[int, int | None]] = []
    while nearest:
        new = min(nearest, key=lambda i: (nearest[i][0], i))
        order.append((new, nearest.pop(new)[1]))
        for i, (best, _) in list(nearest.items()):
            if (step := between(members[new], members[i])) < best:
                nearest[i] = (step, new)
    return order


def member_at(value: Any, problems: Sequence[Problem]) -> Problem:
    """The problem that `value` means in the family of `problems`: a Problem is itself, a mapping gives coefficients, a
    number the only one that varies. What is not given is as in the first of `problems`."""
    if isinstance(value, Problem):
        return value
    held, varied = coefficients(problems[0]), varying(problems)
    if isinstance(value, Mapping):
        for name in value:
            choose(name, list(held), what=f"coefficient of {type(problems[0]).__name__}")
        missing = [name for name in varied if name not in value]
        if missing:
            raise ValueError(f"the coefficient {missing[0]} varies in this family, and {dict(value)} does not give it")
        return dataclasses.replace(problems[0], **value)  # type: ignore[type-var]
    if not is_number(value):
        raise ValueError(f"{value!r} is no member; give a number, a mapping of coefficients or a Problem")
    if len(varied) != 1:
        names = ", ".join(varied) or "no coefficient"
        raise ValueError(
            f"{names} vary in this family, so the number {value} says too little; give a mapping or a Problem"
        )
    value = value.item() if isinstance(value, np.generic) else value
    return dataclasses.replace(problems[0], **{next(iter(varied)): value})  # type: ignore[type-var]
