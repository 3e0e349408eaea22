"""A ball: points inside, on the sphere and at the ends of time, spread as they must be."""

import math

import pytest
import torch

from pinn_lora.ball import Ball

NAMES = [f"x{i + 1}" for i in range(10)]
BALL = Ball(NAMES, radius=2.0, t=(0.0, 3.0))


@pytest.mark.parametrize("design", ["sobol", "latin_hypercube", "uniform"])
def test_points_are_inside_and_uniform(design):
    """Of a uniform law in d dimensions |x|^d is uniform, and every coordinate has mean 0 and variance R^2 / (d + 2): within
    four standard deviations of independent points."""
    points = BALL.sample(4000, seed=3, design=design)
    assert points.shape == (4000, 11)
    assert points.dtype == torch.float64
    assert BALL.contains(points).all()
    levels = (points[:, :10].norm(dim=1) / 2.0) ** 10
    for q in (0.1, 0.5, 0.9):
        assert abs(float((levels < q).double().mean()) - q) < 4 * math.sqrt(q * (1 - q) / 4000)
    x = points[:, :10]
    assert (x.mean(0).abs() < 4 * math.sqrt(4.0 / 12 / 4000)).all()
    assert torch.allclose(x.square().mean(0), torch.full((10,), 4.0 / 12).double(), rtol=0.15)
    assert abs(float(points[:, 10].mean()) - 1.5) < 4 * math.sqrt(9.0 / 12 / 4000)


def test_the_boundary_is_the_sphere_at_all_times():
    points = BALL.sample_boundary(500, seed=1)
    torch.testing.assert_close(points[:, :10].norm(dim=1), torch.full((500,), 2.0).double(), rtol=1e-12, atol=0)
    assert float(points[:, 10].min()) < 0.1 and float(points[:, 10].max()) > 2.9
    assert (points[:, :10].mean(0).abs() < 4 * math.sqrt(4.0 / 10 / 500)).all()


def test_the_first_instant_is_a_ball():
    points = BALL.sample_face(200, coordinate="t", side="lower", seed=2)
    assert (points[:, 10] == 0.0).all()
    assert BALL.contains(points).all()
    assert float(points[:, :10].norm(dim=1).max()) > 1.8


def test_the_seed_alone_decides():
    state = torch.random.get_rng_state()
    assert torch.equal(BALL.sample(20, seed=5), BALL.sample(20, seed=5))
    assert not torch.equal(BALL.sample(20, seed=5), BALL.sample(20, seed=6))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_time_a_grid_keeps_what_is_inside():
    disc = Ball(["x", "y"])
    axes, points = disc.grid(41)
    assert len(axes) == 2
    assert (points.norm(dim=1) <= 1.0 + 1e-9).all()
    assert len(points) / 41**2 == pytest.approx(math.pi / 4, rel=0.05)


def test_bad_input_gets_one_sentence():
    with pytest.raises(ValueError, match=r"the radius of a ball is -1.0; it must be a positive number"):
        Ball(["x", "y"], radius=-1.0)
    with pytest.raises(ValueError, match="a ball has no face x1 = upper; take on='boundary'"):
        BALL.sample_face(5, coordinate="x1", side="upper")
