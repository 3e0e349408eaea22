"""What a problem's class says of itself: its fields, its domain, the coordinates it is periodic in, and its conditions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pinn_lora.domain import Domain
from pinn_lora.places import ProblemError, files_of, naming, place_given, place_in, place_of, sentence

Kind = TypeVar("Kind")


def mistakes(problem: Any) -> Iterator[tuple[str, str]]:
    """What of `fields`, `domain`, `periodic` and `residual` cannot be used, each with the sentence that says why, after its
    file and line. ProblemError where the class's own code fails."""
    cls = type(problem)
    with naming(problem):
        fields, periodic, domain = problem.fields, problem.periodic, getattr(problem, "domain", None)
    said: list[tuple[str, str]] = []
    if not _names(fields) or not fields:
        said.append(("fields", f'fields is {fields!r:.60}; name the unknowns in a tuple, fields = ("u",)'))
    elif len(set(fields)) < len(fields):
        said.append(("fields", f"fields names an unknown twice: {', '.join(fields)}"))
    if not isinstance(domain, Domain):
        given = f"is {domain!r:.60}" if domain is not None else f"is missing: {cls.__name__} has no domain"
        said.append(("domain", f"domain {given}; write domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 1.0))"))
    if not _names(periodic):
        example = '("x",)'
        said.append(
            (
                "periodic",
                f"periodic is {periodic!r:.60}; name coordinates in a tuple, periodic = {example}, or leave it out",
            )
        )
    elif isinstance(domain, Domain):
        for name in periodic:
            if name not in domain.names:
                choices = ", ".join(domain.names)
                said.append(("periodic", f"periodic names {name!r}, which is no coordinate (coordinates: {choices})"))
    if not problem.has_residual:
        said.append(("residual", f"residual is missing: {cls.__name__} has no residual; define residual(self, p, u)"))
    for name, text in said:
        yield name, f"{place_given(cls, name)}: {cls.__name__}: {text}"


def not_frozen(cls: type) -> str:
    """The sentence, after its file and line, for a class that is no frozen dataclass."""
    where = place_given(cls, "__dataclass_params__")
    return f"{where}: {cls.__name__} is no frozen dataclass: write @dataclass(frozen=True) above it"


def check_declaration(problem: Any) -> None:
    """ProblemError that says the first of the mistakes."""
    for _, text in mistakes(problem):
        raise ProblemError(text)


def named(post_init: Callable[..., None]) -> Callable[..., None]:
    """A problem's __post_init__, whose errors name its line and the coefficients; a ValueError is a sentence already."""

    @functools.wraps(post_init)
    def run(self: Any, *given: Any) -> None:
        try:
            post_init(self, *given)
        except ValueError:
            raise
        except (Exception, SystemExit) as error:
            where = place_in(error, files_of(type(self))) or place_of(post_init)
            values = ", ".join(f"{name}={value!r:.60}" for name, value in vars(self).items())
            raise ProblemError(f"{where}: {type(self).__name__}({values}): {sentence(error)}") from error

    return run


def listed(conditions: Any, kind: type[Kind]) -> Sequence[Kind]:
    """The conditions, each of that kind; ValueError where they are no list of them."""
    if not isinstance(conditions, (list, tuple)):
        raise ValueError(f"conditions gives {_short(conditions)}; give a list of them, [] where there are none")
    for condition in conditions:
        if not isinstance(condition, kind):
            raise ValueError(f"conditions lists {_short(condition)}; each must be a condition like pl.initial(...)")
    return conditions


def _short(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _names(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value)
