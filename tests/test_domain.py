"""Domains: where points fall, that a seed fixes them, and that nothing global moves."""

import math

import numpy as np
import pytest
import torch

from pinn_lora.domain import DESIGNS, Domain


def box() -> Domain:
    return Domain(x=(-1.0, 2.0), y=(10.0, 11.5), t=(0.0, 0.25))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("n", [1, 7, 64, 1000])
def test_points_lie_inside(design, n):
    points = box().sample(n, seed=5, design=design)
    assert points.shape == (n, 3)
    assert points.dtype == torch.float64
    lower, upper = torch.tensor(box().lower), torch.tensor(box().upper)
    assert ((points >= lower) & (points <= upper)).all()


@pytest.mark.parametrize("design", DESIGNS)
def test_points_fill_the_box(design):
    """1,000 points: the mean of a uniform coordinate is within 0.05 of the middle (five standard errors), its ends met."""
    unit = Domain(a=(0, 1), b=(0, 1)).sample(1000, seed=1, design=design)
    assert (unit.mean(0) - 0.5).abs().max() < 0.05
    assert unit.min(0).values.max() < 0.02
    assert unit.max(0).values.min() > 0.98
    assert abs(float(torch.corrcoef(unit.T)[0, 1])) < 0.2


@pytest.mark.parametrize("design", DESIGNS)
def test_a_seed_fixes_the_points_and_another_gives_others(design):
    first, again, other = (box().sample(50, seed=s, design=design) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).all(dim=1).any()


@pytest.mark.parametrize("design", DESIGNS)
def test_sampling_touches_no_global_random_state(design):
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.random(), torch.rand(1).item()
    np.random.seed(1)
    torch.manual_seed(1)
    box().sample(33, seed=9, design=design)
    box().sample_face(5, coordinate="x", side="lower", seed=2)
    assert (np.random.random(), torch.rand(1).item()) == expected


def test_the_default_design_is_a_low_discrepancy_one():
    """Of 256 scrambled Sobol points exactly 16 lie in each cell of a 4 x 4 grid; random ones practically never do."""
    unit = Domain(a=(0, 1), b=(0, 1)).sample(256, seed=11)
    counts = torch.bincount((unit * 4).long() @ torch.tensor([4, 1]), minlength=16)
    assert counts.tolist() == [16] * 16


@pytest.mark.parametrize("coordinate", ["x", "y", "t"])
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_points_on_a_face_lie_on_it_and_vary_along_it(coordinate, side):
    domain = box()
    points = domain.sample_face(40, coordinate=coordinate, side=side, seed=2)
    at = domain.number(coordinate)
    assert (points[:, at] == getattr(domain, side)[at]).all()
    for other in set(range(3)) - {at}:
        assert len(points[:, other].unique()) > 30
        assert points[:, other].min() >= domain.lower[other]
        assert points[:, other].max() <= domain.upper[other]


def test_both_ends_have_matching_points():
    lower, upper = (box().sample_face(9, coordinate="x", side=s, seed=4) for s in ("lower", "upper"))
    assert torch.equal(lower[:, 1:], upper[:, 1:])


def test_a_grid_has_its_bounds_and_its_last_coordinate_runs_fastest():
    domain = Domain(x=(0.0, 1.0), t=(2.0, 4.0))
    axes, points = domain.grid((2, 3))
    assert [a.tolist() for a in axes] == [[0.0, 1.0], [2.0, 3.0, 4.0]]
    assert points.tolist() == [[0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]
    assert points.dtype == torch.float64
    assert domain.grid(5)[1].shape == (25, 2)


def test_names_and_bounds():
    domain = box()
    assert domain.names == ("x", "y", "t")
    assert domain.dimension == 3
    assert domain.number("t") == 2
    assert repr(Domain(x=(-1, 1), t=(0, 0.5))) == "Domain(x=(-1, 1), t=(0, 0.5))"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Domain(), "at least one coordinate"),
        (lambda: Domain(x=(1.0, 1.0)), r"coordinate x has bounds \(1.0, 1.0\)"),
        (lambda: Domain(x="a"), r"coordinate x has bounds 'a'; give two numbers, as x=\(0.0, 1.0\)"),
        (lambda: Domain(x=1.0), "coordinate x has bounds 1.0; give two numbers"),
        (lambda: Domain(x=(2.0, 1.0)), "give finite lower < upper"),
        (lambda: Domain(x=(0.0, math.inf)), "give finite lower < upper"),
        (lambda: Domain(x=(math.nan, 1.0)), "give finite lower < upper"),
        (lambda: box().number("z"), r"no coordinate 'z' \(coordinates: x, y, t\)"),
        (lambda: box().sample_face(4, coordinate="z", side="lower"), "no coordinate 'z'"),
        (lambda: box().sample_face(4, coordinate="x", side="left"), "no side 'left'.*lower, upper"),
        (lambda: box().sample(0), "0 points were asked for"),
        (lambda: box().sample(-3), "-3 points were asked for"),
        (lambda: box().sample(5, design="sobl"), r"no design 'sobl'.*sobol, latin_hypercube, uniform"),
    ],
)
def test_bad_input_gives_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
