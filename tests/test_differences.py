"""Differences against polynomials, sines and a kink: the derivatives, their stated uncertainty, and no value from outside."""

import math

import numpy as np
import pytest

from pinn_lora.checks.differences import difference, stencil
from pinn_lora.jets import laplacian

LOWER, UPPER = (-1.0, 0.0), (1.0, 2.0)


def smooth(points):
    x, t = points.T
    return np.stack([np.sin(3 * x) * np.exp(-t), x**3 * t**2], axis=1)


def exact(points, index):
    x, t = points.T
    i, j = index.count(0), index.count(1)
    wave = 3.0**i * np.sin(3 * x + i * math.pi / 2) * (-1.0) ** j * np.exp(-t)
    power = math.perm(3, i) * x ** (3 - i) if i <= 3 else 0.0 * x
    return np.stack([wave, power * (math.perm(2, j) * t ** (2 - j) if j <= 2 else 0.0)], axis=1)


def points_everywhere():
    """Inside, on every face and in the corners."""
    inside = np.random.default_rng(0).uniform(LOWER, UPPER, (20, 2))
    x, t = np.meshgrid((-1.0, 0.3, 1.0), (0.0, 0.7, 2.0))
    return np.concatenate([inside, np.stack([x.ravel(), t.ravel()], axis=1)])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("at", [0, 3, 11])
def test_a_stencil_is_exact_for_polynomials_of_its_degree(order, at):
    """x^k about its node: k! for k = order and 0 for all others. Weights up to 1e4 times powers up to 11^11, rounded."""
    x = np.arange(12.0) - at
    for k in range(12):
        expected = math.factorial(order) if k == order else 0.0
        terms = stencil(12, at, order) * x**k
        assert abs(terms.sum() - expected) < 1e-13 * np.abs(terms).sum() + 1e-14


@pytest.mark.parametrize("index", [(0,), (1,), (0, 0), (0, 1), (1, 1), (0, 0, 0), (0, 0, 1), (0, 0, 0, 0)])
def test_derivatives_are_those_of_a_closed_form_inside_and_on_the_faces(index):
    """Roundings of 1e-15 over h^order limit it, and at the faces one-sided weights of up to 1e4; what is stated as uncertain
    covers the error, but for a point where two spacings agree by chance."""
    points = points_everywhere()
    found, uncertain = difference(smooth, points, index, LOWER, UPPER)
    error = np.abs(found - exact(points, index))
    assert error.max() < {1: 1e-11, 2: 1e-8, 3: 1e-6, 4: 1e-3}[len(index)]
    assert np.sqrt(np.mean(error**2)) < 3 * np.sqrt(np.mean(uncertain**2))
    assert (error <= 100 * uncertain + 1e-11).all()


def test_a_laplacian_is_the_sum_of_its_parts_and_as_uncertain_as_all_of_them():
    points = points_everywhere()
    found, uncertain = difference(smooth, points, laplacian(0, 1), LOWER, UPPER)
    parts = [difference(smooth, points, index, LOWER, UPPER) for index in ((0, 0), (1, 1))]
    np.testing.assert_array_equal(found, parts[0][0] + parts[1][0])
    np.testing.assert_array_equal(uncertain, parts[0][1] + parts[1][1])


def test_the_value_itself_is_certain():
    points = points_everywhere()
    found, uncertain = difference(smooth, points, (), LOWER, UPPER)
    np.testing.assert_array_equal(found, smooth(points))
    assert not uncertain.any()


def test_no_value_outside_of_the_box_is_asked_for():
    def guarded(points):
        assert (points >= np.array(LOWER) - 1e-12).all() and (points <= np.array(UPPER) + 1e-12).all()
        return smooth(points)

    for index in [(0,), (1,), (0, 1), (0, 0, 0, 0)]:
        difference(guarded, points_everywhere(), index, LOWER, UPPER)


def test_a_stencil_that_meets_no_value_is_left_for_a_smaller_one():
    """Values are missing above x = 0.5: next to it only small one-sided spacings have all of theirs."""

    def cut(points):
        return np.where(points[:, :1] <= 0.5, smooth(points), np.nan)

    points = np.array([[0.45, 1.0], [0.2, 1.0], [0.9, 1.0]])
    found, uncertain = difference(cut, points, (0,), LOWER, UPPER)
    assert np.abs(found - exact(points, (0,)))[:2].max() < 1e-9
    assert np.isnan(found[2]).all() and np.isnan(uncertain[2]).all()


def test_a_layer_is_found_by_small_spacings():
    """With a spacing of a third of the layer's width, 1/200: to 1e-3, where the largest spacing misses it altogether."""
    layer = lambda points: np.tanh(200 * points[:, :1])  # noqa: E731
    points = np.array([[0.0, 1.0], [0.004, 1.0], [-0.9, 1.0]])
    found, _ = difference(layer, points, (0,), LOWER, UPPER)
    np.testing.assert_allclose(found[:, 0], 200 / np.cosh(200 * points[:, 0]) ** 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("index", [(0,), (0, 0)])
def test_noise_is_seen_in_the_uncertainty(index):
    """A ripple of 1e-6 that no spacing resolves: off by a thousandth and by a third, and it is said."""
    noisy = lambda points: smooth(points) + 1e-6 * np.sin(1e7 * points[:, :1])  # noqa: E731
    points = points_everywhere()
    found, uncertain = difference(noisy, points, index, LOWER, UPPER)
    error = np.abs(found - exact(points, index))
    assert error.max() > 1e-4
    assert np.sqrt(np.mean(error**2)) < 3 * np.sqrt(np.mean(uncertain**2))
