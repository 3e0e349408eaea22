"""Restarts and chains of adapters, end to end on Burgers."""

import itertools
import math

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_objective import assert_close, objective_of, started

import pinn_lora as pl
from pinn_lora import chain
from pinn_lora.lora import LoRALinear
from pinn_lora.optimizers.sd_lora import SDLoRA


@pytest.fixture(scope="module")
def base():
    return pl.pretrain(Burgers(nu=0.2 / math.pi), width=8, depth=3, max_steps=60, points=500)


@pytest.fixture(scope="module")
def target():
    return Burgers(nu=0.1 / math.pi)


@pytest.fixture(scope="module")
def family(base):
    problems = [Burgers(nu=nu / math.pi) for nu in (0.17, 0.14, 0.11)]
    return pl.sd_lora(base, problems, rank=2, max_steps=150, points=300, resample_every=50, step_size=3e-3)


def layers(solution):
    return {name: m for name, m in solution.network.named_modules() if isinstance(m, LoRALinear)}


def test_restarts_lift_the_rank(base, target):
    tuned = pl.rac_lora(base, target, rounds=4, rank=1, max_steps=60, points=300, seed=3)
    change = tuned.network.layers[1].weight - base.network.layers[1].weight
    assert torch.linalg.matrix_rank(change.detach(), rtol=1e-8) > 1
    assert not layers(tuned)
    steps = [record.step for record in tuned.history]
    assert steps == sorted(set(steps)) and steps[-1] == 240
    assert tuned.history[-1].held_out_loss < 0.8 * tuned.history[0].held_out_loss
    assert tuned.base is base


def test_a_round_on_either_side_moves_the_weights_and_lowers_the_loss(base, target, monkeypatch):
    """The side that is trained starts from zero and the other does not: else a round would stand still."""
    sides, real = [], chain.finetune

    def finetune(*given, **options):
        found = real(*given, **options)
        sides.append(options["method"].lift.side)
        assert found.history[-1].held_out_loss < 0.9 * found.history[0].held_out_loss
        for layer in layers(found).values():
            trained, kept = (layer.B, layer.A) if sides[-1] == "B" else (layer.A, layer.B)
            assert trained.abs().min() > 0 and kept.abs().min() > 0
        return found

    monkeypatch.setattr(chain, "finetune", finetune)
    for seed in range(4):
        tuned = pl.rac_lora(base, target, rounds=1, rank=2, max_steps=20, points=200, seed=seed)
        for k in (1, 2):
            change = tuned.network.layers[k].weight - base.network.layers[k].weight
            assert torch.linalg.matrix_rank(change.detach(), rtol=1e-8) == 2
    assert set(sides) == {"A", "B"}


def test_every_link_of_a_chain_begins_as_the_one_before(family):
    for before, after in itertools.pairwise(family):
        expected = pl.Solution(after.problem, before.network).relative_l2()
        assert after.history[0].relative_l2 == pytest.approx(expected, rel=1e-10)
        assert after.history[-1].held_out_loss < 0.5 * after.history[0].held_out_loss


@pytest.mark.parametrize("step_size", [30.0, 1e300])
def test_a_chain_ends_at_the_first_link_that_diverged(base, target, step_size):
    """The next would begin from it, and with factors that overflowed its problem would be blamed."""
    found = pl.sd_lora(base, [target, base.problem], rank=2, max_steps=5, points=100, step_size=step_size)
    assert [solution.status for solution in found] == [pl.Status.DIVERGED]


FEW = {"rank": 1, "points": 64}
CALLS = {
    "sd_lora": lambda base, p: pl.sd_lora(base, [p, p], max_steps=2, **FEW),
    "rac_lora": lambda base, p: pl.rac_lora(base, p, rounds=2, max_steps=2, **FEW),
    "select_layers": lambda base, p: pl.select_layers(base, p, 1, steps=2, **FEW),
    "select_ranks": lambda base, p: pl.select_ranks(pl.finetune(base, p, max_steps=1, **FEW), 1, points=64),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_callers_random_numbers_stay_as_they_are(name, base, target):
    torchs, numpys = torch.random.get_rng_state(), np.random.get_state()
    CALLS[name](base, target)
    assert torch.equal(torch.random.get_rng_state(), torchs)
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), numpys, strict=True))


def test_past_directions_stay_and_their_magnitudes_move(family):
    before, after = (list(layers(solution).values()) for solution in family[-2:])
    for old, new in zip(before, after, strict=True):
        assert (old.rank, new.rank) == (4, 6)
        for k in range(2):
            place = slice(2 * k, 2 * k + 2)
            B, C = old.B[:, place].detach(), new.B[:, place].detach()
            assert_close(C / C.norm(), B / B.norm(), 1e-12)
            assert_close(new.A[place].detach(), (old.A[place] / old.A[place].norm()).detach(), 1e-12)
            assert abs(float(C.norm() / (B.norm() * old.A[place].detach().norm())) - 1.0) > 1e-6


def test_a_link_is_plain_lora_on_the_same_base(family, base, tmp_path):
    last = family[-1]
    assert last.base is base
    assert all(layer.B0 is None for layer in layers(last).values())
    again = pl.Solution.load(last.save(tmp_path / "link"), base=base)
    points = torch.rand(20, 2).double()
    assert torch.equal(again.predict(points), last.predict(points))


def test_the_gradient_of_a_magnitude_is_autograds():
    """By differences of the loss: Adam's first step is h against its sign."""
    objective = objective_of(rank=4)
    run, theta = started(SDLoRA(rank=2, decay=False), objective, step_size=1e-4, max_steps=9)
    block = objective.blocks.pairs[0]
    B, A = block.split(theta[block.slice])
    e = 1e-6

    def loss(change: float) -> float:
        moved = theta.clone()
        held = block.split(moved[block.slice])[0]
        held[:, :2] = (1.0 + change / float(B[:, :2].norm())) * B[:, :2]
        return objective.value(moved)

    slope = (loss(e) - loss(-e)) / (2 * e)
    new = run.step(objective, theta).theta
    moved, kept = block.split(new[block.slice])
    size = float(moved[:, :2].norm() - B[:, :2].norm())
    assert size == pytest.approx(-math.copysign(1e-4, slope), rel=1e-3)
    assert torch.equal(kept[:2], A[:2])


def test_bad_input_gets_one_sentence(base, target):
    with pytest.raises(ValueError, match="rounds is 0; it must be a whole number, at least 1"):
        pl.rac_lora(base, target, rounds=0)
    for name in ("method", "initializer", "start"):
        with pytest.raises(
            ValueError, match=rf"^{name}='lora-adam' is given, and every round .*has its own; leave {name} out$"
        ):
            pl.rac_lora(base, target, **{name: "lora-adam"})
    with pytest.raises(ValueError, match="sd_lora was given no problems"):
        pl.sd_lora(base, [])
    with pytest.raises(ValueError, match=r"^sd_lora was given problems=Burgers\(.*; give the members .* as a list$"):
        pl.sd_lora(base, target)
    with pytest.raises(ValueError, match=r"^problem is 'burgers'; give a Problem"):
        pl.sd_lora(base, [target, "burgers"])
    with pytest.raises(ValueError, match=r"^rank is 2.5; give a whole number$"):
        pl.sd_lora(base, [target], rank=2.5)
    with pytest.raises(ValueError, match=r"^rank is 0; it must be a whole number, at least 1$"):
        pl.sd_lora(base, [target], rank=0)
    for run in (lambda seed: pl.rac_lora(base, target, seed=seed), lambda seed: pl.sd_lora(base, [target], seed=seed)):
        with pytest.raises(ValueError, match=r"^seed is 'a'; give a whole number$"):
            run("a")
    with pytest.raises(
        ValueError, match="sd_lora: a layer's factors have rank 2, which is no multiple of the pairs' rank 4"
    ):
        started(SDLoRA(rank=4), objective_of(rank=2), step_size=1e-3, max_steps=9)
