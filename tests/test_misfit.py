"""A term at a reference in closed form: value, slopes, parts and scale, and the points that are left out."""

from dataclasses import dataclass

import numpy as np
import torch

import pinn_lora as pl
from pinn_lora.checks.misfit import Reference
from pinn_lora.jets import closure
from pinn_lora.problem import Problem, periodic
from pinn_lora.terms import Term

INDICES = closure([(0, 0), (1,)])  # u, u_x, u_t, u_xx


@dataclass(frozen=True)
class Known(Problem):
    """u = x^2 (1 + t), v = x - t; residual u_t + u u_x - 3 v."""

    domain = pl.Domain(x=(-1.0, 2.0), t=(0.0, 1.0))
    fields = ("u", "v")

    def residual(self, p, u, v):
        return u.t + u * u.x - 3.0 * v

    def reference(self, p):
        return p.x**2 * (1.0 + p.t), p.x - p.t


def test_value_slopes_and_parts_are_those_of_the_closed_form():
    """Polynomials of degree 3: differences of order 8 err by roundings alone."""
    problem, points = Known(), Known.domain.sample(20, seed=1)
    (found,) = Reference(problem).misfits(Term("residual", problem.residual, 1.0, INDICES, False), [points])
    x, t = points.numpy().T
    u, u_x, u_t, v = x**2 * (1 + t), 2 * x * (1 + t), x**2, x - t
    close = {"rtol": 0, "atol": 1e-11}
    np.testing.assert_allclose(found.value, u_t + u * u_x - 3 * v, **close)
    slopes = np.zeros((4, 2, 20))
    at = [INDICES.index(index) for index in ((), (0,), (1,))]
    slopes[at[0]], slopes[at[1], 0], slopes[at[2], 0] = [np.abs(u_x), np.full(20, 3.0)], np.abs(u), 1.0
    np.testing.assert_allclose(found.slopes, slopes, **close)
    np.testing.assert_allclose(found.parts.sum(axis=(0, 1)), u * u_x + u * u_x + u_t - 3 * v, **close)
    assert (found.uncertain >= 0).all() and found.uncertain.max() < 1e-10
    sizes = Reference(problem).sizes(points, INDICES)
    np.testing.assert_allclose(sizes[(1,)], [np.sqrt(np.mean(x**4)), 1.0], **close)
    rms = lambda z: np.sqrt(np.mean(z**2))  # noqa: E731
    expected = rms(np.abs(u_x) * rms(u) + 3 * rms(v) + np.abs(u) * rms(u_x) + rms(u_t))
    np.testing.assert_allclose(found.scale(INDICES, sizes), expected, rtol=1e-10)


def test_a_paired_term_sees_both_ends():
    condition = periodic(on="x", derivatives=1)
    sets = condition.sample(Known.domain, 10, seed=2)
    term = Term("periodic", condition.operator, 1.0, closure([(0,)]), True)
    value, slope = Reference(Known()).misfits(term, sets)
    t = sets[0][:, 1].numpy()
    np.testing.assert_allclose(value.value, -3.0 * (1 + t), rtol=0, atol=1e-11)  # 1 - 4 at x = -1 and 2
    np.testing.assert_allclose(slope.value, -6.0 * (1 + t), rtol=0, atol=1e-11)
    assert (value.slopes[0, 0] == 2.0).all() and not value.slopes[:, 1].any()


def test_points_at_which_no_difference_fits_are_left_out():
    class Disk(pl.Domain):
        def contains(self, points):
            return points.square().sum(dim=1) <= 1.0

    @dataclass(frozen=True)
    class Inside(Problem):
        domain = Disk(x=(-1.0, 1.0), y=(-1.0, 1.0))

        def residual(self, p, u):
            return u.xx - 2.0

        def reference(self, p):
            assert (p.x**2 + p.y**2 <= 1.0).all(), "no value outside is asked for"
            return p.x**2 + p.y

    points = torch.tensor(
        [[0.1, 0.2], [0.0, 1.0], [0.3, -0.4]], dtype=torch.float64
    )  # the second has no neighbour in x
    (found,) = Reference(Inside()).misfits(Term("residual", Inside().residual, 1.0, INDICES, False), [points])
    assert torch.equal(found.points, points[[0, 2]])
    assert np.abs(found.value).max() < 1e-8
