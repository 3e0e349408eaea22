"""The cavity's reference: its polynomials, the walls, and the equations in their strong form."""

import numpy as np
import pytest
from numpy.polynomial import Polynomial

from pinn_lora.references.clamped import Lid, clamped, full, solve_cavity

LID = Lid(Polynomial([0.0, 0.0, 16.0, -32.0, 16.0]))


@pytest.fixture(scope="module")
def flow():
    return solve_cavity(50.0, LID, n=20)


def inside(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.random.default_rng(1).uniform(0.1, 0.9, (2, n))
    return x, y


def test_the_polynomials_are_clamped_and_their_second_derivatives_orthogonal():
    ends = np.array([0.0, 1.0])
    assert np.abs(clamped(9, ends, 0)).max() < 1e-13
    assert np.abs(clamped(9, ends, 1)).max() < 1e-12
    x, w = np.polynomial.legendre.leggauss(20)
    second = clamped(9, 0.5 * (x + 1.0), 2)
    product = second * (0.5 * w) @ second.T
    np.testing.assert_allclose(product, np.diag(product.diagonal()), atol=1e-12)


@pytest.mark.parametrize("basis", [clamped, full])
def test_derivatives_are_those_of_the_values(basis):
    """Against central differences of one order less: 1e-8 of the largest, as differences of step 1e-5 allow."""
    x, h = np.linspace(0.1, 0.9, 7), 1e-5
    for order in (1, 2, 3):
        expected = (basis(6, x + h, order - 1) - basis(6, x - h, order - 1)) / (2 * h)
        found = basis(6, x, order)
        np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(found).max() + 1e-9)


def test_the_walls_are_at_rest_and_the_lid_moves(flow):
    s, zero, one = np.linspace(0.0, 1.0, 40), np.zeros(40), np.ones(40)
    for x, y in ((zero, s), (one, s), (s, zero)):
        u, v, _ = flow(x, y)
        assert np.abs(u).max() < 1e-12
        assert np.abs(v).max() < 1e-12
    u, v, _ = flow(s, one)
    np.testing.assert_allclose(u, 16.0 * s**2 * (1.0 - s) ** 2, atol=1e-12)
    assert np.abs(v).max() < 1e-12
    assert abs(flow(np.array([0.5]), np.array([0.5]))[2][0]) < 1e-14


def test_it_solves_navier_stokes(flow):
    """The momentum equations away from the corners, with derivatives by central differences of order 4, h = 1e-3: to 1e-4 of
    the largest term, ten times what 20 polynomials leave."""
    (x, y), h = inside(), 1e-3

    def d(field, i, j, axis):
        shift = lambda k: flow(x + k * h * (axis == 0), y + k * h * (axis == 1))[field]  # noqa: E731
        if i + j == 1:
            return (shift(-2) - 8 * shift(-1) + 8 * shift(1) - shift(2)) / (12 * h)
        return (-shift(-2) + 16 * shift(-1) - 30 * shift(0) + 16 * shift(1) - shift(2)) / (12 * h**2)

    u, v, _ = flow(x, y)
    for field, axis in ((0, 0), (1, 1)):
        terms = [u * d(field, 1, 0, 0), v * d(field, 0, 1, 1), d(2, axis == 0, axis == 1, axis)]
        terms += [-(d(field, 2, 0, 0) + d(field, 0, 2, 1)) / 50.0]
        assert np.abs(sum(terms)).max() < 1e-4 * max(np.abs(t).max() for t in terms)
    assert np.abs(d(0, 1, 0, 0) + d(1, 0, 1, 1)).max() < 1e-8


def test_the_stated_error_bounds_the_distance_from_a_finer_solution(flow):
    x, y = np.random.default_rng(2).random((2, 400))
    found, finer = (np.concatenate(f(x, y)) for f in (flow, solve_cavity(50.0, LID, n=30)))
    assert np.linalg.norm(found - finer) < flow.error * np.linalg.norm(finer)
    assert flow.error < 1e-4


def test_fast_flows_are_reached_by_slower_ones_and_a_failure_is_one_sentence():
    assert solve_cavity(400.0, LID, n=24).error < 1e-4
    with pytest.raises(ValueError, match=r"^Cavity: at re = 400 the reference may err by 5e-03 .*1e-04 judges nothing"):
        solve_cavity(400.0, LID, n=16)
    with pytest.raises(ValueError, match=r"did not converge at the Reynolds number 1000000000.0; take a smaller one"):
        solve_cavity(1e9, LID, n=8)
