"""A row's error, place and words."""

import math

from pinn_lora.families.rows import counted, error_in, place_of, told


def test_what_diverged_or_has_no_error_is_infinite():
    assert error_in({"relative_l2": 0.1, "status": "COMPLETED"}, "relative_l2") == 0.1
    assert error_in({"relative_l2": 0.1, "status": "DIVERGED"}, "relative_l2") == math.inf
    assert error_in({"relative_l2": None, "status": "COMPLETED"}, "relative_l2") == math.inf


def test_place_and_words_are_of_the_coefficients_asked_for():
    row = {"nu": 0.0123456, "a": 3, "form": "soft", "seed": 1}
    assert place_of(row, ["a", "nu"]) == (3, 0.0123456)
    assert told(row, ["nu", "a", "form"]) == "nu = 0.01235, a = 3, form = soft"


def test_one_thing_has_no_plural():
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
