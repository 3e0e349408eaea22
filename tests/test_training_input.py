"""What pretrain and finetune refuse, each in one sentence."""

import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.poisson import Poisson
from torch import nn

import pinn_lora as pl
from pinn_lora.optimizers.altlora import AltLoRA
from pinn_lora.optimizers.bug import BUG


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "odelora-implict"}, "did you mean 'odelora-implicit'"),
        ({"method": 3}, "give a preset's name"),
        ({"rank": 11}, "rank 11 does not fit the 10 x 10 layer 'layers.1'; choose 1 to 10"),
        ({"rank": 6, "method": "od-lora"}, "rank 6 does not fit the 10 x 10 layer .* 2 times the rank; choose 1 to 5"),
        ({"initializer": "zerob"}, "did you mean 'zero_b'"),
        ({"targets": "hiden"}, "choices: hidden, all"),
        ({"step_size": -1.0}, "step_size is -1.0; it must be above 0"),
        ({"max_steps": 0}, "max_steps is 0; it must be a whole number, at least 1"),
        ({"max_seconds": -1}, "max_seconds is -1.0; it must be above 0"),
        ({"resample_every": 0}, "resample_every is 0; it must be a whole number, at least 1"),
        ({"points": 0}, "points is 0; it must be a whole number, at least 1"),
        ({"weights": {"initial": 1.0}}, "no weighted term 'initial'"),
        ({"weights": {"residual": -1.0}}, "it must be a finite number"),
        ({"dtype": "float16"}, "choices: float32, float64"),
        ({"device": "cuda:99"}, "cannot be used here"),
        ({"device": "meta"}, r"the device 'meta' cannot be used here \(choices: cpu"),
    ],
)
def test_bad_input_gets_one_sentence(small_base, target, arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        pl.finetune(small_base, target, **{"rank": 2, "max_steps": 1, **arguments})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        ("burgers", "problem is 'burgers'; give a Problem, such as Burgers() from pinn_lora.problems.burgers"),
        (Burgers, "problem is the class Burgers; give one of it, Burgers()"),
        (None, "problem is None; give a Problem, such as Burgers() from pinn_lora.problems.burgers"),
    ],
)
def test_what_is_no_problem_is_refused(small_base, problem, sentence):
    for train in (pl.pretrain, partial(pl.finetune, small_base)):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            train(problem)


def test_a_base_that_is_no_solution_is_refused(small_base, target):
    with pytest.raises(ValueError, match=r"^base is of type MLP; give a Solution, as pretrain returns it$"):
        pl.finetune(small_base.network, target)
    with pytest.raises(ValueError, match=r"^start is of type str; give a Solution, as pretrain returns it$"):
        pl.finetune(small_base, target, start="x")


@pytest.mark.parametrize("method", ["odelora-implicit", "full-lm"])
def test_a_problem_in_other_coordinates_than_the_bases_is_refused(small_base, method):
    with pytest.raises(
        ValueError, match=r"^the base has the coordinates x, t, and Poisson\(dimension=2.*\) has x1, x2$"
    ):
        pl.finetune(small_base, Poisson(dimension=2), method=method, max_steps=1)


def test_loss_that_is_not_finite_at_the_start_is_refused(small_base):
    @dataclass(frozen=True)
    class Broken(Burgers):
        def residual(self, p, u):
            return u.t / (p.t * 0.0)

    with pytest.raises(ValueError, match=r"the loss of .*Broken.* before the first step"):
        pl.finetune(small_base, Broken(), rank=2)


def test_soft_base_is_refused_for_an_ansatz_that_counts_on_periodicity():
    base = pl.pretrain(Burgers(form="soft"), width=4, depth=2, max_steps=1, points=64)
    with pytest.raises(ValueError, match="counts on a network that is periodic in x"):
        pl.finetune(base, Burgers(form="ansatz"), rank=1, max_steps=1)


def test_network_that_breaks_the_periodic_ansatz_is_refused(plain_module):
    with pytest.raises(ValueError, match="counts on a network that is periodic in x"):
        pl.pretrain(Burgers(), network=plain_module, max_steps=1)


@pytest.mark.parametrize("network", [pl.PirateNet, ("mlp",), 3], ids=str)
def test_what_is_no_network_is_named(network):
    with pytest.raises(
        ValueError, match=r"^network is .*; give a network that is built, a name \(.*mlp.*\), or a mapping"
    ):
        pl.pretrain(Burgers(nu=0.3), network=network, max_steps=1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"points": 1e2}, "points is 100.0; give a whole number"),
        ({"max_steps": 1e1}, "max_steps is 10.0; give a whole number"),
        ({"seed": "0"}, "seed is '0'; give a whole number"),
        ({"resample_every": 2.5}, "resample_every is 2.5; give a whole number"),
        ({"step_size": "1e-3"}, "step_size is '1e-3'; give a number"),
        ({"weights": {"residual": "1"}}, "the weight of residual is '1'; give a number"),
        ({"dtype": torch.float16}, "dtype is torch.float16; it must be float32 or float64, by name or torch's"),
    ],
    ids=str,
)
def test_what_is_no_number_is_one_sentence(small_base, target, given, sentence):
    for train in (lambda **o: pl.pretrain(target, **o), lambda **o: pl.finetune(small_base, target, rank=2, **o)):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            train(**{"points": 64, "max_steps": 1, **given})


@pytest.mark.parametrize("rank", [2.0, "4", True], ids=repr)
def test_a_rank_that_is_no_whole_number_is_one_sentence(small_base, target, rank):
    with pytest.raises(ValueError, match=f"^rank is {rank!r}; give a whole number$"):
        pl.finetune(small_base, target, rank=rank, max_steps=1)


@pytest.mark.parametrize(
    "given",
    [{"initializer": "zero_b"}, {"targets": "all"}, {"scale": 2.0}, {"train_biases": True}],
    ids=str,
)
def test_options_of_factors_are_refused_where_all_weights_are_trained(small_base, target, given):
    name, value = next(iter(given.items()))
    said = f"{name}={value!r} is given, but the method trains all weights and has no factors; leave {name} out"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        pl.finetune(small_base, target, method="full-lm", rank=2, max_steps=1, points=64, **given)


@pytest.mark.parametrize("targets", [{"targets": "all"}, {"rank": {"layers.1": 1, "layers.2": 1}}], ids=str)
def test_an_output_layer_with_factors_is_not_trained_whole_as_well(small_base, target, targets):
    said = "train_output=True trains the whole of layers.2, which is to carry factors; leave one of the two out"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        pl.finetune(small_base, target, train_output=True, max_steps=1, points=64, **{"rank": 1, **targets})


def test_a_method_of_factors_names_what_trains_all_weights_instead(target):
    with pytest.raises(ValueError, match=r"^bug works on LoRA factors and this network has none; take (.*)$") as caught:
        pl.pretrain(target, method=BUG(), max_steps=1, points=64)
    advised = re.findall(r"full-\w+", str(caught.value))
    assert len(advised) > 1
    for name in (*advised, "full-ssbroyden"):
        assert pl.pretrain(target, method=name, max_steps=1, points=64, width=6).settings["method"] == name


def test_ranks_by_name_beside_other_targets_are_one_sentence(small_base, target):
    said = r"^rank names the layers layers.1 and targets is \['layers.2'\]; leave targets out$"
    with pytest.raises(ValueError, match=said):
        pl.finetune(small_base, target, rank={"layers.1": 2}, targets=["layers.2"], max_steps=1)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            pl.Method(lift={"name": "block_diagonal", "eps": 0.0}),
            r"BlockDiagonal\(eps=0.0\) needs factors of full rank, and B",
        ),
        (AltLoRA(eps=0.0), r"BlockDiagonal\(eps=0.0\) needs factors of full rank, and B of 'layers.1' has rank 0 of 2"),
        (
            pl.Method(lift={"name": "one_factor", "side": "A"}),
            r"OneFactor\(side='A', .* moves no factor from this start, where",
        ),
    ],
    ids=str,
)
def test_a_start_from_which_the_lift_cannot_begin_is_refused(small_base, target, method, message):
    with pytest.raises(ValueError, match=rf"^{message}.* balanced$"):
        pl.finetune(small_base, target, method=method, rank=2, max_steps=1, points=64)
    tuned = pl.finetune(small_base, target, method=method, initializer="balanced", rank=2, max_steps=1, points=64)
    assert tuned.network.layers[1].rank == 2


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Identity(), r"a Identity, has no weights to train; give one that has, or leave network= out$"),
        (
            nn.Linear(3, 1),
            r"a Linear, cannot be run at points \(n, 2\), one column for each of x, t: RuntimeError: mat1",
        ),
        (nn.Linear(2, 2), r"a Linear, gives \(2, 2\) at 2 points; the fields are u: it must be \(2, 1\)$"),
        (nn.LSTM(2, 1), r"a LSTM, gives tuple at 2 points; the fields are u: it must be \(2, 1\)$"),
    ],
)
def test_a_network_that_does_not_fit_the_problem_is_one_sentence(network, message):
    with pytest.raises(ValueError, match=rf"^the network, {message}") as caught:
        pl.pretrain(Burgers(form="soft"), network=network, points=64, max_steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["compile", "progress"])
def test_a_switch_that_is_no_switch_is_named(small_base, target, name):
    message = rf"^{name} is 'false'; give True or False$"
    with pytest.raises(ValueError, match=message):
        pl.pretrain(target, points=64, max_steps=1, **{name: "false"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        pl.finetune(small_base, target, points=64, max_steps=1, **{name: "false"})  # type: ignore[arg-type]
