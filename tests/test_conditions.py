"""Conditions: what every one says of a known function, and the sentence for one that cannot be meant."""

import inspect
import math

import numpy as np
import pytest
import torch
from known_function import BOX, Known, field, known, misfit

import pinn_lora as pl
from pinn_lora.fields import Coordinates
from pinn_lora.lora import Blocks
from pinn_lora.places import ProblemError
from pinn_lora.points import first_points
from pinn_lora.problem import Condition


@pytest.mark.parametrize(
    "condition",
    [
        pl.initial(lambda p: pl.sin(p.x)),
        pl.initial(lambda p: 2.0, derivative=1),
        pl.initial(lambda p: 2 * p.x**3, derivative=2),
        pl.initial(lambda p: -(p.t**2) + 2 * p.t - math.sin(1.0), on="x"),
        pl.dirichlet(lambda p: p.x * p.t**2 + torch.sin(p.x) + 2 * p.t, on="x"),
        pl.dirichlet(lambda p: 4 * p.x**3 + torch.sin(p.x) + 4.0, on="t", side="upper"),
        pl.neumann(lambda p: 3 * p.t**2 + math.cos(1.0), on="x"),
        pl.neumann(lambda p: 2.0, on="t", side="lower"),
        pl.robin(
            2.0,
            -0.5,
            lambda p: 2 * (p.t**2 + math.sin(1.0) + 2 * p.t) - 0.5 * (3 * p.t**2 + math.cos(1.0)),
            on="x",
            side="upper",
        ),
    ],
    ids=lambda c: c.name,
)
def test_a_condition_that_the_known_function_satisfies_is_zero(condition):
    (r,) = misfit(condition)
    assert r.shape == (40,)
    assert r.abs().max() < 1e-14  # a few roundings of numbers of order 1


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (pl.initial(lambda p: 0.0), lambda p: torch.sin(p.x)),
        (pl.initial(lambda p: 1.0, derivative=1), lambda p: torch.ones_like(p.x)),
        (pl.dirichlet(lambda p: p.t, on="x", side="lower"), lambda p: -(p.t**2) - math.sin(1.0) + p.t),
        (pl.neumann(lambda p: 0.0, on="x", side="upper"), lambda p: 3 * p.t**2 + math.cos(1.0)),
        (
            pl.robin(1.0, 3.0, lambda p: 0.0, on="x", side="upper"),
            lambda p: p.t**2 + math.sin(1.0) + 2 * p.t + 3.0 * (3 * p.t**2 + math.cos(1.0)),
        ),
    ],
    ids=lambda c: getattr(c, "name", ""),
)
def test_a_condition_measures_by_how_much_it_is_missed(condition, expected):
    (r,) = misfit(condition)
    (points,) = condition.sample(BOX, 40, seed=1)
    torch.testing.assert_close(r, expected(Coordinates.of(points, BOX)), rtol=0, atol=1e-14)


def test_a_periodic_condition_compares_matching_ends():
    r = misfit(pl.periodic(on="x", derivatives=2))
    left, right = pl.periodic(on="x").sample(BOX, 40, seed=1)
    assert torch.equal(left[:, 1], right[:, 1])
    assert (left[:, 0] == -1).all()
    assert (right[:, 0] == 1).all()
    t = left[:, 1]
    expected = (-2 * t**2 - 2 * math.sin(1.0), torch.zeros_like(t), -12 * t**2 + 2 * math.sin(1.0))
    assert len(r) == 3
    for found, value in zip(r, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=1e-14)


def test_a_data_condition_compares_with_its_values():
    points = BOX.sample(9, seed=3)
    values = known(Coordinates.of(points, BOX)) + 0.25
    (r,) = misfit(pl.data(points.numpy(), values.tolist()))
    torch.testing.assert_close(r, torch.full((9,), -0.25, dtype=torch.float64), rtol=0, atol=1e-14)


def test_data_that_are_changed_later_are_not_seen():
    points, values = BOX.sample(9, seed=3).numpy(), np.ones(9)
    condition = pl.data(points, values)
    (before,) = misfit(condition)
    points *= 0.0
    values *= 0.0
    (after,) = misfit(condition)
    assert torch.equal(after, before)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_a_data_condition_can_be_recorded_whatever_its_number_of_points(n):
    """An objective over a problem with data: the condition's operator sees all of its values at once."""
    points = BOX.sample(n, seed=3)
    problem = Known((pl.data(points, known(Coordinates.of(points, BOX)) + 2.0),))
    network = pl.MLP(BOX, width=3, depth=1)
    blocks = Blocks(network)
    objective = pl.Objective(problem, network, blocks, first_points(problem, 20, seed=0))
    assert objective.term_norms(blocks.read(network))["data"] == pytest.approx(2.0)


def test_conditions_on_another_field():
    p = Coordinates.of(BOX.sample(3), BOX)
    u, v = field(), field()
    v._data = v._data + 100.0
    for condition in (
        pl.initial(lambda p: 0.0, field=1),
        pl.dirichlet(lambda p: 0.0, on="x", field=1),
        pl.data(np.zeros((2, 2)), np.zeros(2), field=1),
    ):
        assert torch.equal(condition.operator(p, u, v), v.value)
    assert torch.equal(pl.neumann(lambda p: 0.0, on="x", field=1).operator(p, u, v), v.x)


def test_points_of_a_condition_are_shared_out_over_its_faces():
    (points,) = pl.dirichlet(lambda p: 0.0, on="x").sample(BOX, 40, seed=1)
    assert points.shape == (40, 2)
    assert (points[:20, 0] == -1).all()
    assert (points[20:, 0] == 1).all()
    assert not torch.isclose(points[:20, 1], points[20:, 1]).any()
    (few,) = pl.dirichlet(lambda p: 0.0, on="x").sample(BOX, 1, seed=1)
    assert few.shape == (2, 2)
    assert torch.equal(points, pl.dirichlet(lambda p: 0.0, on="x").sample(BOX, 40, seed=1)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pl.dirichlet(lambda p: 0.0, on="x", side="left"), "no side 'left' .*both, lower, upper"),
        (
            lambda: pl.dirichlet(lambda p: 0.0, on="z").sample(BOX, 8, seed=0),
            r"no coordinate 'z' \(coordinates: x, t\)",
        ),
        (lambda: pl.data(np.zeros((4, 2)), np.zeros(3)), r"4 points.* values.*\(3,\)"),
        (lambda: pl.data(np.zeros((4, 2)), np.zeros((4, 1))), r"4 points.* values.*\(4, 1\)"),
        (lambda: pl.data(np.zeros(4), np.zeros(4)), r"points.*\(4,\)"),
        (
            lambda: pl.dirichlet(lambda p: 0.0, on="x", where=lambda p: p.y > 0).sample(BOX, 8, seed=0),
            r"test_conditions\.py, line \d+: there is no coordinate 'y' \(coordinates: x, t\)$",
        ),
        (
            lambda: pl.dirichlet(lambda p: 0.0, on="x", where=lambda p: p.x.nothing).sample(BOX, 8, seed=0),
            r"test_conditions\.py, line \d+: 'Tensor' object has no attribute 'nothing'$",
        ),
        (
            lambda: Condition("mine", lambda p, u: u - 0.0).sample(BOX, 8, seed=0),
            r"test_conditions\.py, line \d+: mine has neither faces nor points; give faces=",
        ),
        (lambda: pl.data(np.zeros((4, 2)), np.ones(4) * 1j), "data: complex numbers; give real and imaginary part"),
        (lambda: pl.data(torch.zeros(4, 2) * 1j, np.ones(4)), "data: complex numbers; give real and imaginary part"),
        (
            lambda: pl.dirichlet(lambda p: 0.0, on="boundary", side="lower"),
            "dirichlet: side is 'lower', and on='boundary' has no sides; take a part of it with where=$",
        ),
        (lambda: pl.data(np.zeros((4, 3)), np.zeros(4)).sample(BOX, 8, seed=0), r"\(4, 3\).*2 coordinates: x, t"),
    ],
)
def test_bad_conditions_give_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_given", [torch.Tensor.numpy, torch.Tensor.tolist], ids=["numpy", "list"])
def test_where_may_give_its_answers_as_numpy_or_a_list(as_given):
    conditions = (
        pl.dirichlet(lambda p: 0.0, on="t", where=where)
        for where in (lambda p: p.x < 0, lambda p: as_given(p.x < 0), lambda p: as_given(p.x.neg_() > 0))
    )
    plain, given, in_place = (condition.sample(BOX, 40, seed=1)[0] for condition in conditions)
    assert torch.equal(plain, given) and torch.equal(plain, in_place) and (plain[:, 0] < 0).all()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (lambda p: (p.x < 0).int(), r"not int32 of shape \(4096,\)"),
        (lambda p: p.x, r"not float64 of shape \(4096,\)"),
        (lambda p: True, r"not bool of shape \(\)"),
        (lambda p: (p.x < 0)[:, None], r"not bool of shape \(4096, 1\)"),
        (lambda p: None, r"not object of shape \(\)"),
    ],
)
def test_where_without_true_or_false_for_each_point_is_refused(where, said):
    """Whole numbers among them: torch would take them for the places of points."""
    message = rf"line \d+: dirichlet: where= must give True or False for each of 4096 points, {said}$"
    with pytest.raises(ProblemError, match=message):
        pl.dirichlet(lambda p: 0.0, on="x", where=where).sample(BOX, 40, seed=1)


def line_of(function, text: str) -> int:
    """The line of this file in which a function has a text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def test_a_mistake_names_the_line_in_which_the_condition_was_made():
    def conditions():
        return (
            pl.initial(lambda p: 0.0, on="z"),
            pl.data([[0.0, 1.0], [0.5, 2.5], [-3.0, 0.0]], [0.0, 0.0, 0.0]),
            pl.dirichlet(lambda p: p.x[:, None], on="x"),
            pl.neumann(lambda p: p.y, on="x"),
        )

    initial, data, dirichlet, neumann = conditions()
    place = lambda text: rf"test_conditions\.py, line {line_of(conditions, text)}: "  # noqa: E731
    with pytest.raises(ProblemError, match=place("initial") + "there is no coordinate 'z'"):
        initial.sample(BOX, 8, seed=0)
    outside = "data: 2 of 3 points lie outside of the domain, the first at x = 0.5, t = 2.5$"
    with pytest.raises(ProblemError, match=place("data") + outside):
        data.sample(BOX, 8, seed=0)
    for condition, text, message in (
        (dirichlet, "dirichlet", r"Known: a residual of 16 points must have shape \(16,\), not \(16, 16\)$"),
        (neumann, "neumann", r"Known: there is no coordinate 'y' \(coordinates: x, t\)$"),
    ):
        problem, network = Known((condition,)), pl.MLP(BOX, width=3, depth=1)
        with pytest.raises(ProblemError, match=place(text) + message):
            pl.Objective(problem, network, Blocks(network), first_points(problem, 20, seed=0))


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_data_in_float64_fit_a_network_in_float32(engine):
    points = BOX.sample(9, seed=3)
    problem = Known((pl.data(points, known(Coordinates.of(points, BOX)) + 2.0),))
    network = pl.MLP(BOX, width=3, depth=1, dtype=torch.float32)
    blocks = Blocks(network)
    objective = pl.Objective(problem, network, blocks, first_points(problem, 20, seed=0), engine=engine)
    theta = blocks.read(network)
    assert objective.term_norms(theta)["data"] == pytest.approx(2.0, abs=1e-5)
    assert objective.gradient(theta)[1].dtype == torch.float32 and objective.jacobian(theta)[1].isfinite().all()


def test_what_float32_cannot_be_multiplied_with_is_one_sentence():
    class Table(Known):
        def residual(self, p, u):
            return u.t - torch.stack([p.x, p.t], 1) @ torch.ones(2, dtype=torch.float64)

    network = pl.MLP(BOX, width=3, depth=1, dtype=torch.float32)
    problem, blocks = Table(), Blocks(network)
    line = line_of(Table.residual, "torch.stack")
    objective = pl.Objective(problem, network, blocks, first_points(problem, 20, seed=0))
    with pytest.raises(
        ProblemError, match=rf"test_conditions\.py, line {line}: Table: RuntimeError: .*dtype"
    ) as caught:
        objective.value(blocks.read(network))
    assert "\n" not in str(caught.value)
