"""Points: how many there are, that seeds decide them, and that new ones go where the residual is large."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora.lora import Blocks
from pinn_lora.objective import Work
from pinn_lora.points import first_points, grow, held_out_points, layer_points
from pinn_lora.problem import Problem

SOFT = Burgers(nu=0.05, form="soft")


@dataclass(frozen=True)
class Spot(Problem):
    """A residual that is large in one corner, whatever the network says."""

    domain = pl.Domain(x=(0.0, 1.0), t=(0.0, 1.0))

    def residual(self, p, u):
        return torch.where((p.x > 0.9) & (p.t > 0.9), 1000.0, 0.001) + 0.0 * u

    def conditions(self):
        return [pl.initial(lambda p: 0.0), pl.periodic(on="x"), pl.data(np.zeros((3, 2)), np.zeros(3))]


def spot_objective(n: int = 200) -> tuple[pl.Objective, torch.Tensor]:
    network = pl.MLP(Spot().domain, width=3, depth=1)
    points = {**first_points(Spot(), n, seed=0), "data": ()}

    class NoData(Spot):
        def conditions(self):
            return super().conditions()[:2]

    blocks = Blocks(network)
    return pl.Objective(NoData(), network, blocks, points), blocks.read(network)


def test_first_points_by_term():
    found = first_points(Spot(), 1000, seed=3)
    assert {name: [tuple(p.shape) for p in sets] for name, sets in found.items()} == {
        "residual": [(1000, 2)],
        "initial": [(100, 2)],
        "periodic": [(100, 2), (100, 2)],
        "data": [(3, 2)],
    }
    assert (found["initial"][0][:, 1] == 0).all()
    assert torch.equal(found["periodic"][0][:, 1], found["periodic"][1][:, 1])


def test_conditions_get_at_least_64_points():
    assert len(first_points(SOFT, 50, seed=0)["initial"][0]) == 64
    assert list(first_points(SOFT, 50, seed=0)) == ["residual", "initial", "dirichlet"]


@pytest.mark.parametrize("design", ["sobol", "latin_hypercube", "uniform"])
def test_a_seed_decides_all_points(design):
    first, again, other = (first_points(SOFT, 90, seed=s, design=design) for s in (1, 1, 2))
    for name in first:
        assert torch.equal(first[name][0], again[name][0])
        assert not torch.equal(first[name][0], other[name][0])
    assert torch.equal(first["residual"][0], SOFT.domain.sample(90, seed=1, design=design))


def test_the_terms_do_not_share_their_points():
    found = first_points(SOFT, 640, seed=0)
    x, t = found["initial"][0][:, 0], found["dirichlet"][0][:, 1]
    assert not torch.isclose(found["residual"][0][:64, 0], x).any()
    assert not torch.isclose(found["residual"][0][:64, 1], t).any()


def test_held_out_points_are_the_same_for_all_runs_and_no_runs_own():
    found = held_out_points(SOFT)
    assert len(found["residual"][0]) == 2000
    assert all(torch.equal(found[name][0], held_out_points(SOFT)[name][0]) for name in found)
    for seed in range(3):
        own = first_points(SOFT, 2000, seed=seed)["residual"][0]
        assert torch.cdist(own, found["residual"][0]).min() > 0


def test_new_points_go_where_the_residual_is_large():
    """The corner is 1 % of the domain and has nearly all of |r|: with k = c = 1 half of the new points fall in it, the
    weight r / mean r + 1 being 1 on average twice over; but there are only as many candidates there as there are."""
    objective, theta = spot_objective()
    grown = grow(objective, theta, 100, seed=5, candidates=50)
    before, after = objective.points["residual"][0], grown["residual"][0]
    assert torch.equal(after[:200], before)
    assert after.shape == (300, 2)
    new = after[200:]
    inside = ((new > 0.9).all(dim=1)).sum().item()
    candidates = ((objective.problem.domain.sample(5000, seed=5) > 0.9).all(dim=1)).sum().item()
    assert candidates > 40
    assert inside > 25  # uniform points would give about one
    assert inside < 75
    assert len(new.unique(dim=0)) == 100
    assert grown["initial"] is objective.points["initial"]


def test_growing_is_reproducible_counted_and_moves_nothing():
    objective, theta = spot_objective()
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    before = objective.points["residual"][0].clone()
    first, again, other = (grow(objective, theta, 20, seed=s)["residual"][0] for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(objective.points["residual"][0], before)
    assert objective.work == Work(residuals=3)


@pytest.mark.parametrize("factor", [0.0, float("nan"), float("inf")])
def test_a_residual_that_is_zero_or_not_finite_gives_uniform_points(factor):
    objective, theta = spot_objective()

    class Flat(Spot):
        def residual(self, p, u):
            return factor * torch.ones_like(p.x) + 0.0 * u

        def conditions(self):
            return []

    flat = pl.Objective(Flat(), objective.network, objective.blocks, {"residual": objective.points["residual"]})
    new = grow(flat, theta, 400, seed=3)["residual"][0][200:]
    assert new.isfinite().all()
    assert (new.mean(0) - 0.5).abs().max() < 0.08


def test_float32_networks_get_points_too():
    objective, theta = spot_objective()
    network = objective.network.float()
    single = pl.Objective(objective.problem, network, Blocks(network), objective.points)
    assert grow(single, theta.float(), 10, seed=1)["residual"][0].shape == (210, 2)


def test_a_thinner_layer_takes_more_points_in_proportion_and_a_wider_one_no_fewer():
    base = Burgers(nu=0.01)
    assert [layer_points(base, Burgers(nu=nu)) for nu in (0.005, 0.003, 0.01, 0.1)] == [6000, 10000, 3000, 3000]
    assert layer_points(base, Burgers(nu=0.004), first=100) == 250
    assert layer_points(Spot(), Spot(), first=70) == 70, "a problem that states no layer"
    with pytest.raises(ValueError, match="asks for 30,000,000 points and at most 1,000,000 are taken"):
        layer_points(base, Burgers(nu=1e-6))


def test_a_width_that_is_none_is_told_with_its_line():
    class Flat(Spot):
        layer_width = 0.0

    with pytest.raises(
        ValueError, match=r"test_points\.py, line \d+: layer_width of .* is 0\.0; it must be above 0 and finite"
    ):
        layer_points(Flat(), Spot())
    with pytest.raises(ValueError, match="layer_width of"):
        layer_points(Spot(), Flat())
