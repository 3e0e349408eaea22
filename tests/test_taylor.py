"""Residuals written with autograd: on fields with known derivatives they give what they give on a network itself."""

import pytest
import torch

import pinn_lora as pl
from pinn_lora.dde.taylor import AutogradOperator
from pinn_lora.fields import Coordinates, Field
from pinn_lora.jets import closure

DOMAIN = pl.Domain(x=(-1.0, 1.0), t=(0.0, 2.0))


def network(fields=2):
    return pl.MLP(DOMAIN, fields=fields, width=6, depth=2, seed=4)


def slope(y, x):
    return torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0]


def third(x, y):
    for _ in range(3):
        y = slope(y[:, :1], x)[:, :1]
    return y


CALLS = {  # name: call, the derivatives of both fields that it depends on
    "value": (lambda x, y: y[:, 1:] ** 2 - x[:, :1], {()}),
    "burgers": (
        lambda x, y: slope(y[:, :1], x)[:, 1:] + y[:, :1] * slope(y[:, :1], x)[:, :1] - third(x, y)[:, :1],
        {(), (0,), (1,), (0, 0), (0, 0, 0)},
    ),
    "of an expression": (
        lambda x, y: slope(torch.sin(x[:, :1]) * y[:, :1] * slope(y[:, 1:], x)[:, :1], x),
        {(), (0,), (1,), (0, 0), (0, 1)},
    ),
    "of a sum": (lambda x, y: torch.autograd.grad(y.sum(), x, create_graph=True)[0][:, 1], {(), (1,)}),
    "mixed twice": (lambda x, y: slope(slope(y[:, :1], x)[:, 1:], x)[:, :1], {(), (0,), (1,), (0, 1)}),
    "several": (lambda x, y: [y[:, 0], slope(y[:, :1].exp(), x)[:, :1]], {(), (0,)}),
    "blind": (lambda x, y: x, {()}),
    "a branch": (lambda x, y: torch.relu(slope(y[:, :1], x)[:, :1] - 5.0) * (x[:, :1] > 0.9), {(), (0,)}),
}


def fields_of(net, points, indices):
    outputs = net.jets(points, indices).requires_grad_()
    return outputs, [Field(data, indices, DOMAIN.names) for data in outputs.unbind(-1)]


@pytest.mark.parametrize("name", CALLS)
def test_it_gives_what_autograd_gives_through_the_network(name):
    """To rounding; and only the derivatives that are there are needed."""
    call, needed = CALLS[name]
    net, points = network(), DOMAIN.sample(40, seed=2)
    operator = AutogradOperator(call, DOMAIN.names)
    indices = operator.needed(DOMAIN.sample(2048), 2, rows=2048)
    assert set(indices) == needed and indices == closure(needed)
    x = points.clone().requires_grad_()
    expected = call(x, net(x))
    expected = expected if isinstance(expected, list) else [expected]
    columns = [c / e.reshape(40, -1).shape[1] ** 0.5 for e in expected for c in e.reshape(40, -1).unbind(1)]
    _, fields = fields_of(net, points, indices)
    found = operator(Coordinates.of(points, DOMAIN), *fields)
    assert len(found) == len(columns)
    for r, c in zip(found, columns, strict=True):
        assert torch.allclose(r, c, rtol=1e-11, atol=1e-11)


def test_the_slope_in_the_outputs_is_that_of_differences():
    """Central differences of 1e-5 in every derivative of a residual that multiplies them: to 1e-8."""
    call = CALLS["of an expression"][0]
    points, operator = DOMAIN.sample(5, seed=1), AutogradOperator(call, DOMAIN.names)
    outputs, _ = fields_of(network(), points, operator.needed(DOMAIN.sample(2048), 2, rows=2048))
    indices = operator.needed(DOMAIN.sample(2048), 2, rows=2048)

    def total(held):
        fields = [Field(data, indices, DOMAIN.names) for data in held.unbind(-1)]
        return sum(r.sum() for r in operator(Coordinates.of(points, DOMAIN), *fields))

    (found,) = torch.autograd.grad(total(outputs), outputs)
    with torch.no_grad():
        for place in range(outputs.numel()):
            step = torch.zeros_like(outputs).view(-1)
            step[place] = 1e-5
            step = step.view_as(outputs)
            difference = (total(outputs + step) - total(outputs - step)) / 2e-5
            assert abs(float(difference - found.reshape(-1)[place])) < 1e-8


def test_without_gradients_nothing_is_kept():
    operator, points = AutogradOperator(CALLS["burgers"][0], DOMAIN.names), DOMAIN.sample(3)
    _, fields = fields_of(network(), points, operator.needed(points, 2, rows=3))
    with torch.no_grad():
        assert not operator(Coordinates.of(points, DOMAIN), *fields)[0].requires_grad


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, y: y - y.mean(), "depends on the fields at other points than its own"),
        (lambda x, y: y[1:], "a residual of 20 points must have 20 rows, not 19"),
        (lambda x, y: y[:, 3:4], "a column beyond the 2 outputs is asked for"),
    ],
)
def test_what_cannot_be_a_residual_is_refused(call, said):
    with pytest.raises((ValueError, IndexError), match=said):
        AutogradOperator(call, DOMAIN.names).needed(DOMAIN.sample(20), 2, rows=20)


def test_two_sets_follow_each_other():
    """A periodic condition: rows of the first set less those of the second."""

    def call(x, y):
        n = len(x) // 2
        return slope(y[:, :1], x)[:n, :1] - slope(y[:, :1], x)[n:, :1]

    operator, points = AutogradOperator(call, DOMAIN.names), DOMAIN.sample(8)
    assert operator.rows(points, 2) == 4
    indices = operator.needed(points, 2, rows=4)
    assert indices == ((), (0,))
    sets = [(Coordinates.of(p, DOMAIN), *fields_of(network(), p, indices)[1]) for p in points.chunk(2)]
    (found,) = operator(*sets)
    assert torch.equal(found, sets[0][1].x - sets[1][1].x)
