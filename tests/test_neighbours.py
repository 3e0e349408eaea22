"""Distances between members, and the tree by which a family is reached, against scipy's minimum spanning tree."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.reaction import Reaction
from scipy.sparse.csgraph import minimum_spanning_tree

import pinn_lora as pl
from pinn_lora.families.neighbours import coefficient_distance, member_at, spanning_tree, varying


@dataclass(frozen=True)
class Wave(pl.Problem):
    """Two numeric coefficients, one of them of either sign, and one that is a name."""

    c: float = 1.0
    shift: float = 0.0
    form: str = "soft"
    domain = pl.Domain(x=(0.0, 1.0), t=(0.0, 1.0))


def test_a_positive_coefficient_counts_by_its_ratio_and_another_by_its_range():
    problems = [Wave(c=1.0, shift=-1.0), Wave(c=2.0, shift=3.0), Wave(c=8.0, shift=0.0)]
    distance = coefficient_distance(problems)
    assert distance(problems[0], problems[1]) == pytest.approx(math.hypot(math.log(2.0), 4.0 / 4.0), rel=1e-14)
    assert distance(problems[1], problems[2]) == pytest.approx(math.hypot(math.log(4.0), 3.0 / 4.0), rel=1e-14)
    assert distance(problems[2], problems[1]) == distance(problems[1], problems[2])
    assert distance(problems[0], problems[0]) == 0.0


def test_the_same_ratio_is_as_far_at_either_end():
    distance = coefficient_distance([Burgers(nu=0.001), Burgers(nu=0.1)])
    assert distance(Burgers(nu=0.001), Burgers(nu=0.002)) == pytest.approx(math.log(2.0), rel=1e-12)
    assert distance(Burgers(nu=0.05), Burgers(nu=0.1)) == pytest.approx(math.log(2.0), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_is_as_short_as_scipys_and_grows_from_the_base(seed):
    rng = np.random.default_rng(seed)
    problems = [
        Wave(c=float(c), shift=float(s)) for c, s in zip(rng.uniform(0.1, 9, 12), rng.normal(size=12), strict=True)
    ]
    distance = coefficient_distance(problems)
    tree = spanning_tree(problems[0], problems[1:], distance)
    reached: set[int | None] = {None}
    for member, parent in tree:
        assert parent in reached and member not in reached, "a parent comes before its children"
        reached.add(member)
    assert reached == {None, *range(11)}
    place = lambda i: 0 if i is None else i + 1  # noqa: E731
    length = sum(distance(problems[member + 1], problems[place(parent)]) for member, parent in tree)
    matrix = np.array([[distance(a, b) for b in problems] for a in problems])
    assert length == pytest.approx(minimum_spanning_tree(matrix).sum(), rel=1e-12)


def test_members_on_a_line_are_reached_outwards_from_the_base():
    rates = (0.5, 8.0, 2.0, 0.25, 4.0)  # base at 1
    tree = spanning_tree(Reaction(rho=1.0), [Reaction(rho=r) for r in rates], lambda a, b: abs(math.log(a.rho / b.rho)))
    assert dict(tree) == {2: None, 4: 2, 1: 4, 0: None, 3: 0}


def test_a_member_is_named_by_number_mapping_or_problem():
    line = [Burgers(nu=0.01, form="soft"), Burgers(nu=0.02, form="soft")]
    assert member_at(0.015, line) == Burgers(nu=0.015, form="soft")
    assert member_at({"nu": 0.03}, line) == Burgers(nu=0.03, form="soft")
    assert member_at(Burgers(nu=0.5), line) == Burgers(nu=0.5)
    plane = [Wave(), Wave(c=2.0, shift=1.0)]
    assert member_at({"c": 3.0, "shift": 0.5}, plane) == Wave(c=3.0, shift=0.5)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.5, "c, shift vary in this family, so the number 0.5 says too little; give a mapping or a Problem"),
        ({"c": 1.0}, "the coefficient shift varies in this family, and {'c': 1.0} does not give it"),
        ({"c": 1.0, "shft": 1.0}, "there is no coefficient of Wave 'shft'; did you mean 'shift'"),
        ("0.5", "'0.5' is no member; give a number, a mapping of coefficients or a Problem"),
        (math.nan, "nan is no member"),
    ],
)
def test_what_names_no_member_gets_one_sentence(value, sentence):
    with pytest.raises(ValueError) as raised:
        member_at(value, [Wave(), Wave(c=2.0, shift=1.0)])
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_what_cannot_be_compared_gets_one_sentence():
    with pytest.raises(ValueError, match="a family is of one class, and here are Wave and Burgers"):
        varying([Wave(), Burgers()])
    with pytest.raises(ValueError, match="the coefficient form varies and is 'soft', no finite number; give distance="):
        coefficient_distance([Wave(), Wave(form="hard")])
    with pytest.raises(ValueError, match=r"the distance from .* is nan; it must be a finite number of at least 0"):
        spanning_tree(Wave(), [Wave(c=2.0)], lambda a, b: math.nan)
    for told in (None, "near", -1.0):
        with pytest.raises(ValueError, match=rf"is {told!r}; it must be a finite number of at least 0$"):
            spanning_tree(Wave(), [Wave(c=2.0)], lambda a, b, told=told: told)
    with pytest.raises(ValueError, match=r"^distance is 0\.5; give a function of two problems$"):
        spanning_tree(Wave(), [Wave(c=2.0)], 0.5)

    class Loose(pl.Problem):
        domain = Wave.domain

    with pytest.raises(ValueError, match="Loose has no coefficients to tell members apart: make it a dataclass"):
        varying([Loose(), Loose()])
