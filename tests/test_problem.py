"""Problems: how derivatives are named and recorded, and what every condition says of a known function."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pinn_lora as pl
from pinn_lora.jets import Jet, closure
from pinn_lora.lora import Blocks
from pinn_lora.points import first_points
from pinn_lora.problem import Condition, Coordinates, Field, Problem, components, parse_derivative

BOX = pl.Domain(x=(-1.0, 1.0), t=(0.0, 2.0))


def known(p):
    """u = x^3 t^2 + sin(x) + 2 t, of jets or tensors."""
    return p.x**3 * p.t**2 + pl.sin(p.x) + 2.0 * p.t


@dataclass(frozen=True)
class Known(Problem):
    """A problem whose ansatz is the known function whatever the network says."""

    found: tuple = ()
    domain = BOX

    def residual(self, p, u):
        return u.t - u.xx

    def conditions(self):
        return list(self.found)

    def ansatz(self, p, n):
        return known(p) + 0.0 * n


def misfit(condition: Condition, *, n: int = 40, domain=BOX) -> tuple[torch.Tensor, ...]:
    """The condition's residual components for the known function."""
    problem, indices = Known(), closure([(0, 0), (0, 1), (1, 1)])
    sets = []
    for points in condition.sample(domain, n, seed=1):
        jets = [Jet.coordinate(points, i, indices) for i in range(2)]
        fields = problem.solution_jets(jets, torch.zeros(len(indices), len(points), 1, dtype=torch.float64), indices)
        sets.append((Coordinates.of(points, domain), *fields))
    return components(condition.operator(*sets) if condition.paired else condition.operator(*sets[0]))


# Names of derivatives


@pytest.mark.parametrize(
    ("name", "coordinates", "index"),
    [
        ("", ("x", "t"), ()),
        ("x", ("x", "t"), (0,)),
        ("tx", ("x", "t"), (0, 1)),
        ("xxt", ("x", "t"), (0, 0, 1)),
        ("x1x2", ("x1", "x2"), (0, 1)),
        ("x1x1x1", ("x1", "x2"), (0, 0, 0)),
        ("rho", ("r", "rho"), (1,)),  # r, then "ho", leads nowhere
        ("rrho", ("r", "rho"), (0, 1)),
        ("thetar", ("r", "theta"), (0, 1)),
        ("y", ("x", "t"), None),
        ("xxq", ("x", "t"), None),
        ("shape", ("x", "t"), None),
    ],
)
def test_a_derivative_is_named_by_its_coordinates(name, coordinates, index):
    assert parse_derivative(name, coordinates) == index


def field(names=("x", "t")) -> Field:
    indices = closure([(0, 0), (0, 1), (1, 1)])
    return Field(torch.arange(12.0, dtype=torch.float64).reshape(6, 2) + 1.0, indices, names)


def test_a_field_gives_its_derivatives_by_name():
    u = field()
    for i, name in enumerate(("x", "t", "xx", "xt", "tt"), start=1):
        assert torch.equal(getattr(u, name), u._data[i])
        assert torch.equal(u.d(*name), u._data[i])
    assert torch.equal(u.tx, u.xt)
    assert torch.equal(u.d("t", "x"), u.xt)
    assert torch.equal(u.d(), u.value)


def test_long_names_go_through_d():
    u = field(("x1", "x2"))
    assert torch.equal(u.d("x1", "x1"), u._data[3])
    assert torch.equal(u.d("x2", "x1"), u._data[4])
    assert torch.equal(u.x1x2, u._data[4])


def test_a_field_is_its_value_in_arithmetic():
    u, v = field(), field()
    value = u.value
    w = torch.tensor([2.0, 3.0], dtype=torch.float64)
    cases = {
        "+": (u + 1, 1 + u, u + w, w + u, u + v),
        "-": (u - 1, 1 - u, u - w, w - u, u - v),
        "*": (u * 2, 2 * u, u * w, w * u, u * v),
        "/": (u / 2, 2 / u, u / w, w / u, u / v),
        "**": (u**2, 2**u, u**w, w**u, u**v),
    }
    for sign, found in cases.items():
        for f, (a, b) in zip(found, _operands(sign, value, w), strict=True):
            assert torch.equal(f, _apply(sign, a, b))
    assert torch.equal(-u, -value)
    assert torch.equal(np.float64(2.0) * u, 2 * value)


def _operands(sign, value, w):
    number = 2 if sign in ("*", "/", "**") else 1
    return [(value, number), (number, value), (value, w), (w, value), (value, value)]


def _apply(sign, a, b):
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "**": lambda: a**b}[sign]()


def test_torch_functions_see_the_value():
    u = field()
    assert torch.equal(torch.sin(u), torch.sin(u.value))
    assert torch.equal(pl.exp(u), torch.exp(u.value))
    assert torch.equal(torch.where(u.x > 3.5, u, 0.0), torch.where(u.x > 3.5, u.value, 0.0))
    assert torch.equal(torch.clamp(u, max=1.5), torch.clamp(u.value, max=1.5))


def test_torch_functions_see_fields_inside_lists_and_keywords():
    u = field()
    assert torch.equal(torch.stack([u, u.x]), torch.stack([u.value, u.x]))
    assert torch.equal(torch.add(u.x, other=u), u.x + u.value)


@pytest.mark.parametrize("name", ["y", "xxy", "q", "_private"])
def test_an_unknown_derivative_names_the_coordinates(name):
    with pytest.raises(AttributeError, match=rf"'{name}' names no derivative \(coordinates: x, t\)"):
        getattr(field(), name)
    with pytest.raises(AttributeError, match=r"no coordinate 'y' \(coordinates: x, t\)"):
        field().d("x", "y")


def test_coordinates_by_name():
    points = BOX.sample(5)
    p = Coordinates.of(points, BOX)
    assert torch.equal(p.x, points[:, 0])
    assert torch.equal(p.t, points[:, 1])
    with pytest.raises(AttributeError, match=r"no coordinate 'y' \(coordinates: x, t\)"):
        _ = p.y


# Recording


def test_the_recorder_notes_what_a_residual_asks_for():
    assert Known().needed(lambda p, u: u.t + u * u.x - 0.1 * u.xx) == ((), (0,), (1,), (0, 0))
    assert Known().needed(lambda p, u: u.d("x", "x", "t")) == closure([(0, 0, 1)])
    assert Known().needed(lambda p, u: u - p.x) == ((),)
    assert Known().needed(lambda p, u: torch.sin(u) * u.t) == ((), (1,))
    assert Known().needed(lambda p, u: pl.exp(-u) / u.x + u**2) == ((), (0,))


def test_the_recorder_sees_both_sides_of_a_paired_condition():
    condition = pl.periodic(on="x", derivatives=2)
    assert Known().needed(condition.operator, paired=True) == closure([(0, 0)])


def test_the_recorder_takes_several_fields():
    class Pair(Problem):
        domain = BOX
        fields = ("u", "v")

    assert Pair().needed(lambda p, u, v: (u.t - v, v.xx + u)) == ((), (0,), (1,), (0, 0))


def test_recording_touches_no_global_random_state():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Known().needed(lambda p, u: u.t)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (lambda p, u: u.y, r"Known: 'y' names no derivative \(coordinates: x, t\)"),
        (lambda p, u: u.d("z"), r"Known: there is no coordinate 'z' \(coordinates: x, t\)"),
        (lambda p, u: u.t - p.y, r"Known: there is no coordinate 'y' \(coordinates: x, t\)"),
        (lambda p, u: (u.t * u.t).sum(), r"Known: .*shape \(2,\), not \(\)"),
        (lambda p, u: u.t[:, None], r"Known: .*shape \(2,\), not \(2, 1\)"),
        (lambda p, u: (u.t, u.x[:, None]), r"Known: .*shape \(2,\), not \(2, 1\)"),
        (lambda p, u: None, r"Known: .*shape \(2,\), not NoneType"),
        (lambda p, u: 0.0, r"Known: .*shape \(2,\), not float"),
    ],
)
def test_a_wrong_residual_gives_one_clear_sentence(residual, message):
    with pytest.raises(ValueError, match=message) as caught:
        Known().needed(residual)
    assert "\n" not in str(caught.value)


def test_a_residual_may_be_the_field_itself():
    """A condition u = 0 can be written as `u`, which is a tensor wherever it is used."""
    assert Known().needed(lambda p, u: u) == ((),)


# Conditions on the known function


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
        (lambda: pl.data(np.zeros((4, 3)), np.zeros(4)).sample(BOX, 8, seed=0), r"\(4, 3\).*2 coordinates: x, t"),
    ],
)
def test_bad_conditions_give_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# Terms and solutions


def test_terms_have_distinct_names():
    conditions = (
        pl.initial(lambda p: 0.0),
        pl.initial(lambda p: 0.0, derivative=1),
        pl.dirichlet(lambda p: 0.0, on="x", side="lower"),
        pl.neumann(lambda p: 0.0, on="x", side="upper"),
        pl.dirichlet(lambda p: 1.0, on="x", side="upper"),
    )
    terms = Known(conditions).terms()
    assert [name for name, _, _ in terms] == [
        "residual",
        "initial",
        "initial_t",
        "dirichlet_1",
        "neumann",
        "dirichlet_2",
    ]
    assert [condition for _, _, condition in terms] == [None, *conditions]
    assert terms[3][1] is conditions[2].operator


@pytest.mark.parametrize("names", [("residual",), ("wall", "wall", "wall_1")])
def test_a_name_that_is_taken_is_refused(names):
    conditions = tuple(Condition(name, lambda p, u: u - 0.0, faces=(("x", "lower"),)) for name in names)
    with pytest.raises(ValueError, match=names[-1]):
        Known(conditions).terms()


def test_the_default_solution_is_the_network():
    class Two(Problem):
        domain = BOX
        fields = ("u", "v")

    points = BOX.sample(5)
    u, v = Two().solution(points, lambda x: torch.stack([x[:, 0], 2 * x[:, 1]], dim=1))
    assert torch.equal(u, points[:, 0])
    assert torch.equal(v, 2 * points[:, 1])
    (alone,) = Problem.solution(Known(), points, lambda x: x[:, :1])
    torch.testing.assert_close(alone, known(Coordinates.of(points, BOX)))


def test_reference_values_are_numpy_whatever_the_reference_gives():
    class WithReference(Known):
        def reference(self, p):
            return known(p)

    class OfTwo(Known):
        def reference(self, p):
            return p.x.numpy(), p.t

    points = BOX.sample(5).float()
    assert WithReference().has_reference
    assert not Known().has_reference
    found = WithReference().reference_values(points)
    assert (found.shape, found.dtype) == ((5, 1), np.float64)
    np.testing.assert_array_equal(OfTwo().reference_values(points), points.double().numpy())


def test_what_is_missing_is_said():
    with pytest.raises(NotImplementedError, match="Problem has no residual"):
        Problem().residual(None, None)
    with pytest.raises(NotImplementedError, match="Problem has no reference"):
        Problem().reference(None)
