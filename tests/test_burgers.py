"""Burgers' equation: the reference against two independent solutions, and the exact solution put into the residual."""

import itertools
import math

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from scipy.integrate import quad, solve_ivp

import pinn_lora as pl
from pinn_lora.fields import Coordinates, Field
from pinn_lora.jets import Jet, closure


def reference(problem: Burgers, x, t) -> np.ndarray:
    x, t = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(t, dtype=float))
    return problem.reference(Coordinates((x.ravel(), t.ravel()), problem.domain.names)).reshape(x.shape)


def cole_hopf_by_quad(x: float, t: float, nu: float) -> float:
    """-int sin(pi y) e(y) dy / int e(y) dy, e = exp(-cos(pi y) / (2 pi nu) - (x - y)^2 / (4 nu t)), panel by panel."""
    exponent = lambda y: -np.cos(np.pi * y) / (2 * np.pi * nu) - (x - y) ** 2 / (4 * nu * t)  # noqa: E731
    reach = 2.0 + 12.0 * math.sqrt(nu * t)
    panels = np.linspace(x - reach, x + reach, 400)
    top = exponent(np.linspace(x - reach, x + reach, 40_001)).max()
    total = [0.0, 0.0]
    for a, b in itertools.pairwise(panels):
        if exponent(np.linspace(a, b, 5)).max() > top - 60.0:
            total[0] += quad(lambda y: math.sin(math.pi * y) * math.exp(exponent(y) - top), a, b, epsabs=1e-15)[0]
            total[1] += quad(lambda y: math.exp(exponent(y) - top), a, b, epsabs=1e-15)[0]
    return -total[0] / total[1]


@pytest.mark.parametrize("nu", [1.0, 0.1, 0.02 / math.pi, 0.01 / math.pi, 1e-3, 3e-4])
def test_reference_equals_the_cole_hopf_integrals_by_adaptive_quadrature(nu):
    x, t = np.array([0.9, 0.003, -0.02, -0.5, 0.25, -0.99]), np.array([0.05, 1.0, 0.6, 0.35, 0.9, 1.0])
    expected = [cole_hopf_by_quad(a, b, nu) for a, b in zip(x, t, strict=True)]
    np.testing.assert_allclose(reference(Burgers(nu=nu), x, t), expected, rtol=0, atol=1e-11)


def test_reference_equals_a_fourier_solution_of_the_equation():
    """No Cole-Hopf here: 128 Fourier modes on the period 2, Runge-Kutta 8 in time to 1e-11."""
    nu, n = 0.05, 128
    x = -1.0 + 2.0 * np.arange(n) / n
    k = 1j * np.pi * np.fft.fftfreq(n, 1.0 / n)
    kept = np.abs(k) < np.pi * n / 3  # two-thirds rule against aliasing

    def rate(_, u):
        spectrum = np.fft.fft(u)
        return np.fft.ifft(kept * (-0.5 * k * np.fft.fft(u * u) + nu * k * k * spectrum)).real

    times = [0.1, 0.5, 1.0]
    solved = solve_ivp(rate, (0.0, 1.0), -np.sin(np.pi * x), method="DOP853", t_eval=times, rtol=1e-11, atol=1e-12)
    for t, u in zip(times, solved.y.T, strict=True):
        np.testing.assert_allclose(reference(Burgers(nu=nu), x, t), u, rtol=0, atol=1e-8)


@pytest.mark.parametrize("nu", [0.1, 0.01 / math.pi])
def test_reference_has_the_initial_and_the_boundary_values(nu):
    x, t = np.linspace(-1, 1, 41), np.linspace(0, 1, 21)
    np.testing.assert_allclose(reference(Burgers(nu=nu), x, 0.0), -np.sin(np.pi * x), rtol=0, atol=1e-15)
    for side in (-1.0, 0.0, 1.0):
        np.testing.assert_allclose(reference(Burgers(nu=nu), side, t), 0.0, rtol=0, atol=1e-12)
    near = reference(Burgers(nu=nu), x, 1e-6)  # continuous at the first instant
    np.testing.assert_allclose(near, -np.sin(np.pi * x), rtol=0, atol=1e-5)


def test_reference_is_odd():
    x, t = np.linspace(0.01, 1, 30), 0.7
    problem = Burgers()
    np.testing.assert_allclose(reference(problem, -x, t), -reference(problem, x, t), rtol=0, atol=1e-12)


# Central differences of order 8: value, offsets -4 ... 4
FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])


@pytest.mark.parametrize(("nu", "x", "tolerance"), [(0.1, 0.2, 1e-8), (0.05, 0.5, 1e-8), (0.01 / math.pi, 0.4, 1e-7)])
@pytest.mark.parametrize("form", ["soft", "ansatz"])
def test_the_exact_solution_gives_zero_residual(nu, x, tolerance, form):
    """Differences of order 8: h^8 with h = 0.01, and 1e-12 / h^2 of the reference's rounding."""
    problem, h = Burgers(nu=nu, form=form), 0.01
    xs, ts = np.linspace(-x, -0.15, 12), 0.5
    steps = h * np.arange(-4, 5)
    u = reference(problem, xs, ts)
    along_x = reference(problem, xs[:, None] + steps, ts)
    along_t = reference(problem, xs[:, None], ts + steps)
    data = np.stack([u, along_x @ FIRST / h, along_t @ FIRST / h, along_x @ SECOND / h**2])
    indices = closure([(1,), (0, 0)])
    assert indices == ((), (0,), (1,), (0, 0))
    field = Field(torch.from_numpy(data), indices, ("x", "t"))
    points = torch.from_numpy(np.stack([xs, np.full_like(xs, ts)], axis=1))
    r = problem.residual(Coordinates.of(points, problem.domain), field)
    size = float(np.abs(data[2]).max())
    assert size > 0.1  # the terms that cancel are not small themselves
    assert r.abs().max() < tolerance * size


@pytest.mark.parametrize("nu", [2e-4, 1e-4, 1e-5])
def test_a_viscosity_whose_quadrature_does_not_converge_is_refused(nu):
    x = np.linspace(-1, 1, 41)
    with pytest.raises(ValueError, match=rf"nu = {nu:g} the Cole-Hopf quadrature does not converge.*larger viscosity"):
        reference(Burgers(nu=nu), x, 1.0)


def test_what_is_not_refused_is_right():
    """At a single point the two last quadratures could agree by chance: where they do, they are right."""
    generator = np.random.default_rng(0)
    answered = 0
    for nu in 10 ** np.linspace(-4.5, -3.4, 12):
        x, t = 0.2 * generator.uniform(-1, 1), generator.uniform(0.02, 1)
        try:
            found = reference(Burgers(nu=nu), x, t)
        except ValueError:
            continue
        answered += 1
        assert abs(found - cole_hopf_by_quad(x, t, nu)) < 1e-10
    assert answered > 2


def test_reference_takes_tensors_and_many_points():
    problem = Burgers()
    points = problem.domain.sample(9000, seed=1)
    found = problem.reference_values(points)
    assert found.shape == (9000, 1)
    some = [0, 4095, 4096, 8999]
    np.testing.assert_allclose(
        found[some, 0], reference(problem, *points[some].numpy().T), rtol=0, atol=1e-12
    )  # chunks change nothing


def jets_of(problem: Burgers, points: torch.Tensor, indices):
    """Coordinates and the solution's field for a network with large, arbitrary derivatives."""
    coordinates = [Jet.coordinate(points, i, indices) for i in range(2)]
    outputs = torch.randn(len(indices), len(points), 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (u,) = problem.solution_jets(coordinates, 10.0 * outputs, indices)
    return Coordinates.of(points, problem.domain), u, outputs


def test_the_ansatz_satisfies_the_initial_condition_whatever_the_network():
    problem, indices = Burgers(form="ansatz"), closure([(1,), (0, 0)])
    points = problem.domain.sample_face(50, coordinate="t", side="lower", seed=1)
    p, u, _ = jets_of(problem, points, indices)
    assert torch.equal(u.value, -torch.sin(math.pi * p.x))
    torch.testing.assert_close(u.xx, math.pi**2 * torch.sin(math.pi * p.x), rtol=0, atol=1e-13)
    assert problem.conditions() == []
    assert problem.periodic == ("x",)


def test_the_ansatz_with_a_periodic_network_is_periodic():
    problem = Burgers(form="ansatz")
    network = pl.MLP(problem.domain, width=6, depth=2, periodic=problem.periodic, seed=4)
    left, right = (problem.domain.sample_face(20, coordinate="x", side=s, seed=3) for s in ("lower", "upper"))
    (u,), (v,) = (problem.solution(points, network) for points in (left, right))
    torch.testing.assert_close(u, v, rtol=0, atol=1e-14)


def test_the_soft_form_is_the_network_with_two_conditions():
    problem, indices = Burgers(form="soft"), closure([(0, 0), (1,)])
    p, u, outputs = jets_of(problem, problem.domain.sample(20), indices)
    assert torch.equal(u._data, 10.0 * outputs[..., 0])
    assert [name for name, _, _ in problem.terms()] == ["residual", "initial", "dirichlet"]
    assert problem.periodic == ()
    initial, dirichlet = problem.conditions()
    assert torch.equal(initial.operator(p, u), u.value + torch.sin(math.pi * p.x))
    assert torch.equal(dirichlet.operator(p, u), u.value)


@pytest.mark.parametrize("form", ["ansatz", "soft"])
def test_the_residual_asks_for_what_the_equation_has(form):
    problem = Burgers(form=form)
    assert problem.needed(problem.residual) == ((), (0,), (1,), (0, 0))


@pytest.mark.parametrize("nu", [0.0, -1.0, math.nan, math.inf])
def test_a_viscosity_that_is_none_is_refused(nu):
    with pytest.raises(ValueError, match=rf"^Burgers: the viscosity nu is {nu}; it must be a positive number$"):
        Burgers(nu=nu)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"^Burgers: there is no form 'hard' \(choices: ansatz, soft\)$"):
        Burgers(form="hard")


def test_the_layer_is_as_thin_as_the_slope_of_the_true_solution_is_steep():
    x = torch.linspace(-0.02, 0.02, 4001, dtype=torch.float64)
    points = torch.stack([x, torch.full_like(x, 0.8)], 1)
    problems = [Burgers(nu=nu / math.pi) for nu in (0.005, 0.01)]
    steepest = [np.abs(np.diff(problem.reference_values(points)[:, 0])).max() for problem in problems]
    # the shock's height changes a little with nu, too
    assert problems[1].layer_width / problems[0].layer_width == pytest.approx(steepest[0] / steepest[1], rel=0.1)
