"""finetune(start=): an adaptation that begins where another one ended."""

import math
from dataclasses import dataclass

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from test_training import final, same

import pinn_lora as pl


@pytest.fixture(scope="module")
def neighbour(small_base):
    """An adapter on the same base, with a start that is subtracted and a trained output layer."""
    problem = Burgers(nu=0.18 / math.pi)
    options = {"rank": 2, "initializer": "balanced", "train_output": True, "train_biases": True}
    return pl.finetune(small_base, problem, scale=2.0, max_steps=12, points=300, **options)


def test_a_start_is_where_the_adaptation_begins(small_base, target, neighbour):
    before = final(neighbour)
    tuned = pl.finetune(small_base, target, start=neighbour, max_steps=3, points=300)
    unchanged = pl.Solution(target, neighbour.network)
    assert tuned.history[0].relative_l2 == unchanged.relative_l2()
    assert tuned.base is small_base
    assert tuned.compare_to_base() == pl.Solution(target, small_base.network).relative_l2()
    assert same(before, final(neighbour)), "the start is left as it is"
    after = final(tuned)
    trained = {name for name in before if not torch.equal(before[name], after[name])}
    assert trained == {name for name, _ in neighbour.network.named_parameters()}
    layer = tuned.network.layers[1]
    assert (layer.rank, layer.scale) == (2, 2.0)
    assert tuned.settings["start"] == repr(neighbour.problem) and tuned.settings["rank"] == 2
    assert tuned.settings["initializer"] == "balanced"


def test_a_near_start_ends_lower_than_a_fresh_one_of_as_many_steps(small_base, target, neighbour):
    near = pl.finetune(small_base, target, start=neighbour, max_steps=5, points=300)
    options = {"rank": 2, "initializer": "balanced", "train_output": True, "train_biases": True}
    fresh = pl.finetune(small_base, target, scale=2.0, max_steps=5, points=300, **options)
    assert near.relative_l2() < fresh.relative_l2() / 2


def test_a_start_from_disk_gives_the_same_numbers_and_is_saved_as_an_adapter(small_base, target, neighbour, tmp_path):
    again = pl.Solution.load(neighbour.save(tmp_path / "start"), base=small_base)
    runs = [pl.finetune(small_base, target, start=s, max_steps=2, points=100) for s in (neighbour, again)]
    assert same(final(runs[0]), final(runs[1]))
    kept = pl.Solution.load(runs[0].save(tmp_path / "tuned"), base=small_base)
    assert same(final(kept), final(runs[0]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rank": 4}, "rank=4 is given, but start= brings an adapter with its own; leave rank out"),
        ({"initializer": "zero_b"}, "leave initializer out"),
        ({"targets": "all"}, "leave targets out"),
        ({"scale": 1.0}, "leave scale out"),
        ({"train_output": True}, "leave train_output out"),
        ({"method": "full-lm"}, "the method trains all weights, and start= brings factors"),
        ({"method": "od-lora"}, "the method makes its own factors, of 2 times the rank"),
    ],
)
def test_what_does_not_fit_a_start_gets_one_sentence(small_base, target, neighbour, arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        pl.finetune(small_base, target, start=neighbour, max_steps=1, points=64, **arguments)
    assert "\n" not in str(raised.value)


def test_a_start_of_another_base_or_without_factors_is_refused(small_base, target, neighbour):
    other = pl.pretrain(Burgers(nu=0.3 / math.pi), width=10, depth=2, max_steps=1, points=64)
    whole = pl.finetune(small_base, target, method="full-lm", max_steps=1, points=64)
    short = {"max_steps": 1, "points": 64}
    with pytest.raises(ValueError, match="was adapted from another base"):
        pl.finetune(other, target, start=neighbour, **short)
    for start in (small_base, whole):
        with pytest.raises(ValueError, match="has no factors: it was pretrained, or adapted with all weights"):
            pl.finetune(small_base, target, start=start, **short)

    @dataclass(frozen=True)
    class Named(Burgers):
        fields = ("c",)

    with pytest.raises(ValueError, match=r"the base has the fields u, and .*Named.* has c"):
        pl.finetune(small_base, Named(), start=neighbour, **short)
