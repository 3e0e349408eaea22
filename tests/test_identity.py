"""Which problems are the same function: by what they hold, and None where nobody can know."""

import dataclasses
import math

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_problems import HiddenField, Inheriting, Lenient, Plain, Scaled, Streams, System

import pinn_lora.problems
from pinn_lora.catalog import find, names
from pinn_lora.identity import identified
from pinn_lora.problem import Problem


@pytest.mark.parametrize("name", names(pinn_lora.problems))
def test_every_problem_is_the_same_as_another_of_its_coefficients(name):
    cls = find(pinn_lora.problems, Problem, name)
    first, second = identified(cls()), identified(cls())
    assert first is not None and second is not None and first == second and hash(first) == hash(second)
    assert first.problem is not second.problem
    assert first != identified(System())


def test_other_coefficients_and_other_classes_are_others():
    first = identified(Burgers(nu=0.1))
    assert first == identified(Burgers(nu=0.1))
    assert first != identified(Burgers(nu=0.2)) and first != identified(Burgers(nu=0.1, form="soft"))

    @dataclasses.dataclass(frozen=True)
    class Steep(Burgers):
        def residual(self, p, u):
            return 2.0 * super().residual(p, u)

    assert identified(Steep(nu=0.1)) not in (None, first)


@pytest.mark.parametrize("problem", [Inheriting(c=2.0), Lenient(c=2.0)], ids=lambda p: type(p).__name__)
def test_an_equality_that_overlooks_a_field_is_not_asked(problem):
    other = dataclasses.replace(problem, c=3.0)
    assert problem == other
    assert identified(problem) == identified(dataclasses.replace(problem)) != identified(other)


@dataclasses.dataclass(frozen=True)
class Lists(Problem):
    speeds: object = dataclasses.field(default_factory=lambda: [1.0])


class Slotted(Burgers):
    """Extends a dataclass by a number that is neither a field nor in the instance's dictionary."""

    __slots__ = ("c",)


class Vague:
    """As its copy by its hash, another by its equality."""

    def __hash__(self):
        return 1


@pytest.mark.parametrize(
    "problem",
    [
        Slotted(),
        Lists(Vague()),
        Scaled(c=2.0),
        Plain(2.0),
        Streams(torch.ones(2)),
        HiddenField(2.0),
        Lists(),
        Lists((torch.ones(2), 1.0)),
        Lists(torch.nn.Linear(1, 1)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_what_cannot_be_known_is_said(problem):
    assert identified(problem) is None


def test_more_than_the_fields_is_not_known():
    """A dataclass that keeps a number beside them."""

    @dataclasses.dataclass(frozen=True)
    class Marked(Burgers):
        c: dataclasses.InitVar[float] = 1.0

        def __post_init__(self, c):
            super().__post_init__()
            object.__setattr__(self, "_c", c)

    assert Marked(c=2.0) == Marked(c=3.0)
    assert identified(Marked(c=2.0)) is None


def test_values_without_an_order_and_functions_are_values():
    assert identified(Lists(math.sin)) == identified(Lists(math.sin)) != identified(Lists(math.cos))
    assert identified(Lists((1.0, "a", None))) == identified(Lists((1.0, "a", None)))
    assert identified(Lists(math.nan)) is not None
