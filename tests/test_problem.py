"""Problems: how derivatives are named and recorded, their terms, solutions and references."""

import operator

import numpy as np
import pytest
import torch
from known_function import BOX, Known, field, known

import pinn_lora as pl
from pinn_lora.fields import Coordinates, Field, parse_derivative, spelled
from pinn_lora.jets import closure, laplacian
from pinn_lora.places import ProblemError
from pinn_lora.problem import Condition, Problem

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


def test_a_laplacian_is_asked_for_as_one_derivative():
    asks = Known().needed
    assert asks(lambda p, u: u.laplacian("x", "t")) == closure([laplacian(0, 1)])
    assert asks(lambda p, u: u.laplacian("t", "x") + u.xt) == closure([laplacian(0, 1), (0, 1)])
    assert asks(lambda p, u: u.laplacian()) == closure([(0, 0)])  # in all coordinates but t, and there is one
    assert spelled(laplacian(0, 1), ("x", "t")) == "laplacian(x, t)"
    assert spelled((0, 0, 1), ("x", "t")) == "xxt"
    for names, said in ((("x", "x"), "names a coordinate twice"), (("z",), "there is no coordinate 'z'")):
        with pytest.raises(ProblemError, match=said):
            asks(lambda p, u, names=names: u.laplacian(*names))
    with pytest.raises(AttributeError, match=r"laplacian\(\) has no coordinate but t to sum over; name it, as"):
        field(("t",)).laplacian()


def test_a_derivative_that_was_not_asked_for_is_one_sentence():
    u = field()
    for call, name in ((lambda: u.xxt, "xxt"), (lambda: u.laplacian("x", "t"), r"laplacian\(x, t\)")):
        with pytest.raises(AttributeError, match=rf"^{name} was not asked for when this was run once .*in every case$"):
            call()


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
        "%": (u % 2, 2 % u, u % w, w % u, u % v),
    }
    for sign, found in cases.items():
        for f, (a, b) in zip(found, _operands(sign, value, w), strict=True):
            assert torch.equal(f, _apply(sign, a, b))
    assert torch.equal(-u, -value) and torch.equal(+u, value)
    assert torch.equal(abs(Field([-value], ((),), ("x", "t"))), value)
    assert torch.equal(np.float64(2.0) * u, 2 * value)


def _operands(sign, value, w):
    number = 1 if sign in ("+", "-") else 2
    return [(value, number), (number, value), (value, w), (w, value), (value, value)]


def _apply(sign, a, b):
    signs = {"+": "add", "-": "sub", "*": "mul", "/": "truediv", "**": "pow", "%": "mod"}
    return getattr(operator, signs[sign])(a, b)


@pytest.mark.parametrize("name", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_a_field_compares_point_by_point(name):
    u, compare = field(), getattr(operator, name)
    one, w = u.value[0].item(), u.value.flip(0)
    for other, value in ((one, one), (w, w), (Field([w], ((),), ("x", "t")), w)):
        assert torch.equal(compare(u, other), compare(u.value, value))
        assert torch.equal(compare(other, u), compare(value, u.value))
    assert len({u, field()}) == 2


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
        (lambda p, u: (u.t * u.t).sum(), r"Known: .*shape \(16,\), not \(\)"),
        (lambda p, u: u.t[:, None], r"Known: .*shape \(16,\), not \(16, 1\)"),
        (lambda p, u: (u.t, u.x[:, None]), r"Known: .*shape \(16,\), not \(16, 1\)"),
        (lambda p, u: None, r"Known: .*shape \(16,\), not NoneType"),
        (lambda p, u: 0.0, r"Known: .*shape \(16,\), not float"),
        (lambda p, u: u.t > 0, r"Known: .*must be real numbers in floating point, not torch\.bool$"),
        (lambda p, u: u.t + 1j * u.x, r"Known: .*not torch\.complex128; give its real and imaginary part as two comp"),
        (lambda p, u: (), r"Known: a residual has at least one component, and this gives none$"),
        (
            lambda p, u: u.t - p.x.mul_(2.0),
            "Known: this changes a coordinate in place, as x \\*= 2 does; write x = 2 \\* x$",
        ),
    ],
)
def test_a_wrong_residual_gives_one_clear_sentence(residual, message):
    line = residual.__code__.co_firstlineno
    with pytest.raises(ValueError, match=rf"^.*test_problem\.py, line {line}: {message}") as caught:
        Known().needed(residual)
    assert "\n" not in str(caught.value)


def test_a_condition_that_changes_its_points_is_refused_and_leaves_them():
    points = BOX.sample(3)
    before = points.clone()
    with pytest.raises(ProblemError, match="changes a coordinate in place"):
        Known().needed(lambda p, u: u - p.x.neg_(), points=points)
    assert torch.equal(points, before)


def test_a_residual_may_be_the_field_itself():
    """A condition u = 0 can be written as `u`, which is a tensor wherever it is used."""
    assert Known().needed(lambda p, u: u) == ((),)


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


def test_an_ansatz_and_a_reference_may_write_into_their_coordinates():
    """They are their own: neither the network nor the caller sees it."""

    class InPlace(Known):
        def ansatz(self, p, n):
            return p.x.mul_(2.0) + n

        def reference(self, p):
            return p.x.mul_(3.0)

    points = BOX.sample(5)
    before = points.clone()
    (found,) = InPlace().solution(points, lambda x: x[:, :1])
    assert torch.equal(found, 2 * before[:, 0] + before[:, 0])
    assert np.array_equal(InPlace().reference_values(points)[:, 0], 3 * before[:, 0])
    assert torch.equal(points, before)


def test_reference_values_are_numpy_whatever_the_reference_gives():
    class WithReference(Known):
        def reference(self, p):
            return known(p)

    class OfTwo(Known):
        fields = ("u", "v")

        def reference(self, p):
            return p.x.numpy(), p.t

    points = BOX.sample(5).float()
    assert WithReference().has_reference
    assert not Known().has_reference
    found = WithReference().reference_values(points)
    assert (found.shape, found.dtype) == ((5, 1), np.float64)
    np.testing.assert_array_equal(OfTwo().reference_values(points), points.double().numpy())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda p: p.x[:, None], r"the reference of Given has shapes \[\(5, 1\)\], not \[\(5,\)\]$"),
        (
            lambda p: (p.x, p.t),
            r"the reference of Given gives 2 components, and the fields are u; give an array \(n,\) for each$",
        ),
        (lambda p: p.x.tolist(), r"the reference of Given gives 5 components, and the fields are u; give"),
        (lambda p: 0.0, r"the reference of Given has shapes \[\(\)\], not \[\(5,\)\]$"),
        (
            lambda p: torch.where(p.x > 0.1, p.x, torch.nan),
            r"the reference of Given is not finite at 2 of 5 points, the first at x = -0\.\d+, t = ",
        ),
        (lambda p: p.y, r"Given: there is no coordinate 'y' \(coordinates: x, t\)$"),
        (
            lambda p: p.x.numpy() * 1j,
            r"Given: the reference is complex; give its real and imaginary part as two fields$",
        ),
        (lambda p: torch.complex(p.x, p.t), r"Given: the reference is complex; give its real and imaginary part"),
        (lambda p: 1 / 0, r"Given: ZeroDivisionError: division by zero$"),
    ],
)
def test_a_wrong_reference_gives_one_clear_sentence_with_its_line(value, message):
    class Given(Known):
        def reference(self, p):
            return value(p)

    with pytest.raises(ProblemError, match=rf"test_problem\.py, line \d+: {message}") as caught:
        Given().reference_values(BOX.sample(5))
    assert "\n" not in str(caught.value)


def test_an_ansatz_of_another_number_of_fields_is_refused():
    class Two(Known):
        def ansatz(self, p, n):
            return n, n

    message = r"test_problem\.py, line \d+: Two: the fields are u, and the ansatz gives 2$"
    with pytest.raises(ProblemError, match=message):
        Two().solution(BOX.sample(5), lambda x: x[:, :1])


def test_what_is_missing_is_said():
    with pytest.raises(NotImplementedError, match="Problem has no residual"):
        Problem().residual(None, None)
    with pytest.raises(NotImplementedError, match="Problem has no reference"):
        Problem().reference(None)
