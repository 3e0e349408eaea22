"""Numbers as they are given: every kind of whole and real number, and a sentence for what is none."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from pinn_lora.scalars import checked_seed, integer_ranks, integers, json_text, reals, switches, term_weights, whole


@pytest.mark.parametrize("given", [3, 3.0, np.int64(3), np.float64(3.0)], ids=repr)
def test_a_coefficient_that_is_whole_is_an_int_however_it_is_given(given):
    assert type(whole(given)) is int and whole(given) == 3
    assert whole(2.5) == 2.5 and whole("3") == "3" and whole(True) is True and math.isnan(whole(math.nan))


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)], ids=repr)
def test_whole_numbers_are_taken_as_int(given):
    found, nothing = integers(rank=given, seed=None)
    assert type(found) is int and found == 3 and nothing is None
    assert type(reals(h=given)[0]) is float


@pytest.mark.parametrize("given", [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), Fraction(1, 2)], ids=repr)
def test_real_numbers_are_taken_as_float(given):
    found, nothing = reals(step_size=given, max_seconds=None)
    assert type(found) is float and found == 0.5 and nothing is None
    with pytest.raises(ValueError, match=r"^points is .*; give a whole number$"):
        integers(rank=1, points=given)


def test_what_is_not_finite_is_a_number_all_the_same():
    """Where it may stand is for those to say who use it."""
    assert reals(a=np.float32("inf")) == [math.inf] and math.isnan(reals(a=math.nan)[0])


@pytest.mark.parametrize("given", ["4", [4], None, 4j, np.ones(2)], ids=repr)
def test_what_is_no_number_is_named(given):
    if given is not None:
        with pytest.raises(ValueError, match=r"^rank is .*; give a whole number$"):
            integer_ranks(given)
        with pytest.raises(ValueError, match=r"^step_size is .*; give a number$"):
            reals(step_size=given)
    with pytest.raises(ValueError, match=r"^max_memory is True; give a number$"):
        reals(max_memory=True)
    for wrong in ("4", [4]):
        with pytest.raises(ValueError, match=r"^the weight of initial is .*; give a number$"):
            term_weights({"residual": 1, "initial": wrong})
        with pytest.raises(ValueError, match=r"^the rank of layers.1 is .*; give a whole number$"):
            integer_ranks({"layers.1": wrong})


@pytest.mark.parametrize("given", ["traces", 3, [1.0, 2.0], ()], ids=repr)
def test_weights_that_are_no_mapping_are_named(given):
    with pytest.raises(ValueError, match=r"^weights is .*; give a mapping from the names of loss terms to numbers, or"):
        term_weights(given)


def test_seeds():
    assert checked_seed(np.int64(7)) == 7 and checked_seed(2**62 - 1) == 2**62 - 1
    for wrong in (-1, 2**62, 0.5, None, "1"):
        with pytest.raises(ValueError, match=r"^seed is .*; give a whole number"):
            checked_seed(wrong)


def test_ranks_and_weights_by_name():
    assert integer_ranks({"layers.1": np.int64(2), "layers.2": 3}) == {"layers.1": 2, "layers.2": 3}
    assert integer_ranks(None) is None
    assert term_weights({"initial": np.float32(2)}) == {"initial": 2.0} and term_weights(None) == {}


def test_json_holds_numbers_of_numpy():
    record = {"nu": np.float32(0.1), "seed": np.int64(3), "soft": np.bool_(True), "list": [np.float64(0.1), 2]}
    found = json.loads(json_text(record))
    assert found == {"nu": float(np.float32(0.1)), "seed": 3, "soft": True, "list": [0.1, 2]}
    with pytest.raises(TypeError, match=r"^object .* cannot be saved; give numbers, text, lists or mappings of them$"):
        json_text({"a": [object()]})


@pytest.mark.parametrize("given", ["false", 1, None, "no"], ids=repr)
def test_a_switch_is_true_or_false(given):
    switches(compile=False, progress=np.True_)
    with pytest.raises(ValueError, match=rf"^compile is {given!r}; give True or False$"):
        switches(progress=True, compile=given)
