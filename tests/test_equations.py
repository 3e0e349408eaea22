"""The equations of the benchmarks of derivatives, as users of other packages write them, on closed-form solutions."""

import math

import pytest
import torch
from benchmark import load

bench = load("equations")
NU, D, RHO = 0.01 / math.pi, 1e-4, 5.0


def wave(x, t):
    """Burgers: a front of height 2 at speed 1."""
    return 1.0 - torch.tanh((x - t) / (2.0 * NU))


def front(x, t):
    """Allen-Cahn: the front between -1 and 1, which stands still."""
    return torch.tanh(x * math.sqrt(RHO / (2.0 * D))) + 0.0 * t


def product(x, y):
    """Helmholtz: the manufactured solution."""
    return torch.sin(math.pi * x) * torch.sin(4.0 * math.pi * y)


SOLUTIONS = {"Burgers": wave, "Allen-Cahn": front, "Helmholtz": product}


def derivatives(u, points, equation):
    """Of u(x, y) by autograd, by name."""
    x = points.clone().requires_grad_()
    found = {"u": u(*x.unbind(1)), "sin": torch.sin}
    for name in equation.needed:
        value = found["u"]
        for column in equation.numbers(name):
            value = torch.autograd.grad(value.sum(), x, create_graph=True)[0][:, column]
        found[name] = value
    return found


@pytest.mark.parametrize("equation", bench.EQUATIONS, ids=lambda equation: equation.name)
def test_the_residual_is_zero_on_a_solution_and_nowhere_else(equation):
    """Rounding alone is left, of terms as large as the second derivative with its factor: some hundreds."""
    points = 0.01 * (2.0 * torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1.0)
    found = derivatives(SOLUTIONS[equation.name], points, equation)
    x, y = points.unbind(1)
    assert equation.residual(x, y, found).abs().max() < 1e-10
    other = derivatives(lambda x, y: torch.exp(x + 2.0 * y), points, equation)
    assert equation.residual(x, y, other).abs().min() > 1e-2


@pytest.mark.parametrize("equation", bench.EQUATIONS, ids=lambda equation: equation.name)
def test_our_problem_has_the_residual_alone(equation):
    """That its residual is this one is what the benchmarks check on every case."""
    assert [name for name, _, _ in equation.problem.terms()] == ["residual"] and not equation.problem.periodic


def test_derivatives_are_named_by_coordinate():
    assert bench.HELMHOLTZ.numbers("yy") == (1, 1) and bench.BURGERS.orders == {0: 2, 1: 1}
    assert bench.HELMHOLTZ.orders == {0: 2, 1: 2}
