"""Jets against nested autograd: the same expression, once of jets and once of tensors that require a gradient."""

import itertools
import math
import operator

import numpy as np
import pytest
import torch

from pinn_lora import jets
from pinn_lora.jets import (
    FUNCTIONS,
    Jet,
    closure,
    compose,
    compose_adjoint,
    composition_table,
    cos,
    exp,
    laplacian,
    log,
    multiply_add,
    multiply_adjoint,
    sin,
    summed,
    tanh,
)

WEIGHT = torch.linspace(
    0.5, 1.5, 7, dtype=torch.float64
)  # one number a point, the same at every place: not a coordinate
TWO = torch.tensor(2.0, dtype=torch.float64)

EXPRESSIONS = {
    "coordinate": lambda x, t: x * 1.0,
    "sum": lambda x, t: x + 2.0 * t - 3 + (1.0 - x) + WEIGHT,
    "product": lambda x, t: (x * x + t) * (t - 2 * x) * x,
    "quotient": lambda x, t: (x + t * t) / (1.0 + x * t),
    "quotient_by_number": lambda x, t: x * t / 3,
    "number_over": lambda x, t: 2.0 / (x + t),
    "negative": lambda x, t: -(x * t * t),
    "squares_to_fourths": lambda x, t: x**1 + (x * t) ** 2 + t**3 * x + (x + t) ** 4,
    "high_power": lambda x, t: (x - t) ** 6,  # x - t has both signs
    "zeroth_power": lambda x, t: (x + t) ** 0 + x,
    "real_power": lambda x, t: (x + t) ** 2.5,
    "negative_power": lambda x, t: (x + t) ** -2,
    "integer_valued_real_power": lambda x, t: (x - t) ** 2.0,
    "sin": lambda x, t: sin(3.0 * x * t + t),
    "cos": lambda x, t: cos(x * x - t),
    "exp": lambda x, t: exp(x * t - x),
    "log": lambda x, t: log(x + t * x),
    "sqrt": lambda x, t: jets.sqrt(x * t + 1.0),
    "tanh": lambda x, t: tanh(2.0 * x - t * t),
    "nested": lambda x, t: tanh(sin(x * t) * exp(-t)) / (1.0 + cos(x) ** 2),
    "tensor_left": lambda x, t: WEIGHT + (WEIGHT - x) * t + WEIGHT * (x * t) + WEIGHT / (x + t) + TWO * x,
    "tensor_right": lambda x, t: (x * t + WEIGHT) - WEIGHT * 2 + (x * t) * WEIGHT + (x * t) / WEIGHT,
    "torch_functions": lambda x, t: torch.sin(x * t) + torch.tanh(x) * torch.exp(t) - torch.log(x) + torch.cos(t),
    "burgers_ansatz": lambda x, t: -sin(math.pi * x) + t * (1 - x**2) * tanh(x + t),
}

ALL_OF_ORDER_2 = closure(itertools.combinations_with_replacement(range(2), 2))
SETS = {
    "value": closure([]),
    "x": closure([(0,)]),
    "xx": closure([(0, 0)]),
    "xt": closure([(0, 1)]),
    "t_xx": closure([(1,), (0, 0)]),
    "all_2": ALL_OF_ORDER_2,
    "all_3": closure(itertools.combinations_with_replacement(range(2), 3)),
    "xxtt": closure([(0, 0, 1, 1)]),
    "xxxx_t": closure([(0, 0, 0, 0), (1,)]),
    "laplacian": closure([laplacian(0, 1)]),
    "laplacian_beside_others": closure([laplacian(1, 0), (1, 1), (0, 0, 1)]),
}


def points(n: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.2 + torch.rand(n, 2, generator=generator, dtype=torch.float64)


def by_autograd(expression, where: torch.Tensor, indices) -> torch.Tensor:
    """The derivatives named by `indices`, (S, N), by differentiating again and again."""
    coordinates = [where[:, i].clone().requires_grad_() for i in range(where.shape[1])]
    rows = []
    for index in indices:
        parts = []
        for part in summed(index):
            value = expression(*coordinates)
            for number in part:
                total = value.sum() + 0.0 * sum(c.sum() for c in coordinates)  # a constant has a derivative too
                value = torch.autograd.grad(total, coordinates[number], create_graph=True)[0]
            parts.append(value.detach())
        rows.append(sum(parts))
    return torch.stack(rows)


def by_jets(expression, where: torch.Tensor, indices) -> Jet:
    return expression(*(Jet.coordinate(where, i, indices) for i in range(where.shape[1])))


def assert_close(found, expected):
    """1e-11 of the largest entry of a derivative: rounding of sums of a few dozen terms of that size."""
    scale = expected.abs().amax(dim=-1, keepdim=True).clamp_min(1.0)
    assert found.shape == expected.shape
    assert ((found - expected).abs() / scale).max() < 1e-11


@pytest.mark.parametrize("indices", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_every_derivative_is_that_of_nested_autograd(expression, indices):
    found = by_jets(expression, points(), indices)
    assert found.indices == indices
    assert_close(found.data, by_autograd(expression, points(), indices))


@pytest.mark.parametrize("order", [3, 4, 5, 6])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_high_orders_in_one_coordinate(name, order):
    indices = closure([(0,) * order])
    expression = lambda x: getattr(torch, name)(0.3 + x * x)  # noqa: E731
    where = points()[:, :1]
    assert_close(by_jets(expression, where, indices).data, by_autograd(expression, where, indices))


def test_three_coordinates():
    where = torch.cat([points(), points()[:, :1] ** 2], dim=1)
    indices = closure([(0, 1, 2), (2, 2)])
    expression = lambda x, y, z: sin(x * y) * z**2 + exp(x * z) / y  # noqa: E731
    assert_close(by_jets(expression, where, indices).data, by_autograd(expression, where, indices))


def test_numpy_numbers_mix_with_jets():
    x = Jet.coordinate(points(), 0, ALL_OF_ORDER_2)
    for found, expected in (
        (np.float64(2.0) * x, 2.0 * x),
        (np.float64(2.0) / x, 2.0 / x),
        (x - np.float64(2.0), x - 2.0),
    ):
        assert torch.equal(found.data, expected.data)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_derivatives_of_functions_start_with_the_function_and_have_the_right_number(name):
    u = points()[:, 0]
    for order in range(5):
        found = FUNCTIONS[name](u, order)
        assert len(found) == order + 1
        assert torch.equal(found[0], getattr(torch, name)(u))
        assert all(f.shape == u.shape and f.dtype == u.dtype for f in found)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_named_functions_take_tensors_and_jets(name):
    function = getattr(jets, name)
    u = Jet.coordinate(points(), 1, ALL_OF_ORDER_2)
    assert torch.equal(function(points()[:, 1]), getattr(torch, name)(points()[:, 1]))
    assert torch.equal(function(u).data, getattr(torch, name)(u).data)
    assert function.__doc__


@pytest.mark.parametrize("indices", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("name", ["tanh", "sin", "exp"])
def test_compose_under_autograd_is_compose_and_its_adjoint_is_its_transpose(name, indices):
    """compose_adjoint against autograd of compose, where phi depends on u[0] as well."""
    generator = torch.Generator().manual_seed(5)
    u = torch.randn(len(indices), 6, 3, generator=generator, dtype=torch.float64)
    adjoint = torch.randn(u.shape, generator=generator, dtype=torch.float64)
    order = jets.max_order(indices)
    plain = compose(FUNCTIONS[name](u[0], order), u, indices)

    watched = u.clone().requires_grad_()
    composed = compose(FUNCTIONS[name](watched[0], order), watched, indices)
    assert_close(composed.detach().reshape(len(indices), -1), plain.reshape(len(indices), -1))

    (expected,) = torch.autograd.grad(composed, watched, adjoint)
    found = compose_adjoint(FUNCTIONS[name](u[0], order + 1), u, adjoint, indices)
    assert_close(found.reshape(len(indices), -1), expected.reshape(len(indices), -1))


def test_compose_and_its_adjoint_leave_their_arguments_alone():
    u = torch.randn(len(ALL_OF_ORDER_2), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    adjoint, phi = u.flip(0), jets.exp_derivatives(u[0], 3)
    before = u.clone(), adjoint.clone(), [p.clone() for p in phi]
    compose(phi, u, ALL_OF_ORDER_2)
    compose_adjoint(phi, u, adjoint, ALL_OF_ORDER_2)
    assert torch.equal(u, before[0])
    assert torch.equal(adjoint, before[1])
    assert all(torch.equal(p, q) for p, q in zip(phi, before[2], strict=True))


def test_the_adjoint_of_compose_may_be_written_over_what_it_is_applied_to():
    u = torch.randn(len(ALL_OF_ORDER_2), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    adjoint, phi = u.flip(0), jets.exp_derivatives(u[0], 3)
    expected = compose_adjoint(phi, u, adjoint, ALL_OF_ORDER_2)
    assert compose_adjoint(phi, u, adjoint, ALL_OF_ORDER_2, out=adjoint) is adjoint
    assert torch.equal(adjoint, expected)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_gradients_flow_through_jets(name):
    """The loss's gradient in a number that enters the jets, against central differences (error about 1e-9)."""

    def loss(c: torch.Tensor) -> torch.Tensor:
        x, t = (Jet.coordinate(points(), i, ALL_OF_ORDER_2) for i in range(2))
        return getattr(jets, name)(c * x * t + 1.0).data.square().sum()

    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(c), c)
    h = 1e-5
    expected = (loss(c.detach() + h) - loss(c.detach() - h)) / (2 * h)
    assert found.item() == pytest.approx(expected.item(), rel=1e-7)


def test_closure_is_the_smallest_downward_closed_set_in_order():
    assert closure([]) == ((),)
    assert closure([(0, 0), (1,)]) == ((), (0,), (1,), (0, 0))
    assert closure([(1, 0)]) == ((), (0,), (1,), (0, 1))
    assert closure([(0, 0, 1)]) == ((), (0,), (1,), (0, 0), (0, 1), (0, 0, 1))
    assert closure([laplacian(2, 0)]) == ((), (0,), (2,), laplacian(0, 2))
    assert laplacian(1) == (1, 1)
    for indices in SETS.values():
        assert closure(indices) == indices
        for index in (index for index in indices if len(summed(index)) == 1):
            for left_out in range(len(index)):
                assert index[:left_out] + index[left_out + 1 :] in indices


@pytest.mark.parametrize(("order", "partitions"), [(1, 1), (2, 2), (3, 5), (4, 15), (5, 52)])
def test_faa_di_bruno_counts_all_partitions(order, partitions):
    """The coefficients of the highest derivative add up to Bell's number, the linear term counted."""
    indices = closure([(0,) * order])
    total = 1 + sum(c for a, c, _ in composition_table(indices) if a == len(indices) - 1)
    assert total == partitions


def test_a_coordinate_is_its_own_jet():
    x = Jet.coordinate(points(), 0, ALL_OF_ORDER_2)
    expected = torch.zeros(len(ALL_OF_ORDER_2), 7, dtype=torch.float64)
    expected[0], expected[ALL_OF_ORDER_2.index((0,))] = points()[:, 0], 1.0
    assert torch.equal(x.data, expected)
    assert torch.equal(Jet.coordinate(points(), 1, closure([(0,)])).data[1], torch.zeros(7, dtype=torch.float64))


def test_float32_stays_float32():
    where = points().float()
    for expression in EXPRESSIONS.values():
        if "WEIGHT" not in expression.__code__.co_names:
            assert by_jets(expression, where, ALL_OF_ORDER_2).data.dtype == torch.float32


@pytest.mark.parametrize("call", [torch.square, torch.floor, torch.abs], ids=lambda f: f.__name__)
def test_a_function_without_a_jet_says_which_there_are(call):
    with pytest.raises(TypeError, match=r"torch\.\w+ has no jet; there are cos, erf, .*tanh"):
        call(Jet.coordinate(points(), 0, ALL_OF_ORDER_2))


@pytest.mark.parametrize("name", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_a_jet_is_not_compared(name):
    """Python's own == would be False and no error."""
    jet = Jet.coordinate(points(), 0, ((), (0,)))
    for call in (lambda: getattr(operator, name)(jet, 0.5), lambda: getattr(operator, name)(0.5, jet)):
        with pytest.raises(TypeError, match=r"an ansatz cannot compare its arguments \(< > == and the like\)"):
            call()
    assert len({jet, jet}) == 1


def test_a_jet_is_no_exponent():
    x = Jet.coordinate(points(), 0, ALL_OF_ORDER_2)
    for call in (lambda: x**x, lambda: 2.0**x, lambda: TWO**x):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("indices", SETS.values(), ids=SETS.keys())
def test_multiply_add_is_leibniz_rule_and_its_adjoint_the_transpose(indices):
    """v + f g against the jets' own product, and <seed, f g> against its gradient in g by autograd."""
    generator = torch.Generator().manual_seed(8)
    shape = (len(indices), 5, 3)
    v, f, g, seed = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))
    expected = v + (Jet(f, indices) * Jet(g, indices)).data
    before = [x.clone() for x in (v, f, g, seed)]
    for pure in (False, True):
        torch.testing.assert_close(multiply_add(v, f, g, indices, pure=pure), expected, rtol=1e-14, atol=1e-14)
    watched = g.clone().requires_grad_()
    (seed * (Jet(f, indices) * Jet(watched, indices)).data).sum().backward()
    for pure in (False, True):
        found = multiply_adjoint(f, seed, indices, pure=pure)
        torch.testing.assert_close(found, watched.grad, rtol=1e-13, atol=1e-13)
    assert all(torch.equal(x, y) for x, y in zip((v, f, g, seed), before, strict=True))


def test_rows_known_to_be_zero_are_zero_and_what_is_left_out_changes_nothing():
    """A formula in one coordinate, in both, and a number in a jet's clothes: live rows against the numbers themselves, and
    the same formula with all rows live."""
    indices = closure([(0, 0), (0, 1)])
    points = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    x, t = (Jet.coordinate(points, i, indices) for i in range(2))
    dense_x, dense_t = (Jet(jet.data, indices) for jet in (x, t))
    position = {index: i for i, index in enumerate(indices)}
    for formula, expected in (
        (lambda x, t: x, {(), (0,)}),
        (lambda x, t: 3.0 - x * x, {(), (0,), (0, 0)}),
        (lambda x, t: sin(x), {(), (0,), (0, 0)}),
        (lambda x, t: x * t, {(), (0,), (1,), (0, 1)}),
        (lambda x, t: exp(x * t), set(indices)),
        (lambda x, t: t**-1 + 0.0 * x, {(), (1,)}),
        (lambda x, t: 0.0 * t, set()),
        (lambda x, t: (2.0 + 0.0 * t) * x, {(), (0,)}),
        (lambda x, t: (0.0 * t) * (0.0 * x) + 1.0, {()}),
        (lambda x, t: cos(0.0 * t) * x, {(), (0,)}),
        (lambda x, t: (0.0 * t) ** 0 + x, {(), (0,)}),
    ):
        found, dense = formula(x, t), formula(dense_x, dense_t)
        assert found.live == {position[index] for index in expected}
        assert not found.data[[a for a in range(len(indices)) if a not in found.live]].any()
        torch.testing.assert_close(found.data, dense.data, rtol=1e-15, atol=0)
