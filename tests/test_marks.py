"""Which errors are too near the reference's own to be known to two digits, against errors that are moved by as much."""

import math

import numpy as np
import pytest

from pinn_lora.cells import largest, median
from pinn_lora.marks import MARK, bound_of_median, marked, near, told_error


@pytest.mark.parametrize(
    ("error", "bound", "expected"),
    [
        (9.9e-7, 1e-8, True),
        (1e-6, 1e-8, False),
        (1e-12, 1e-8, True),
        (0.0, None, False),
        (1e-12, math.nan, False),
        (1e-12, 0.0, False),
        (None, 1e-8, False),
        (math.nan, 1e-8, False),
        (math.inf, 1e-8, False),
    ],
)
def test_an_error_is_marked_below_a_hundred_times_the_bound(error, bound, expected):
    assert near(error, bound) is expected
    assert told_error(error, bound).endswith(MARK) is expected
    assert marked({"a": error, "b": 1.0}, {"a": bound, "b": bound})["near_reference"] == ("a" if expected else "")


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_of_a_median_is_how_far_it_moves(seed):
    """Every error moved to either end of its bound: no choice of ends moves the median further, and one moves it so far."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 9)
    errors, bounds = rng.uniform(0.0, 1.0, count), rng.choice([0.0, 0.03, 0.4], count)
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * count)).reshape(count, -1).T
    moved = np.abs(np.median(errors + signs * bounds, axis=1) - np.median(errors)).max()
    told = [None if bound == 0.0 else bound for bound in bounds]
    found = bound_of_median(errors.tolist(), told)
    if bounds.any():
        assert found == pytest.approx(moved, rel=1e-12, abs=1e-15)  # sums of two numbers of size 1
    else:
        assert math.isnan(found)


def test_a_median_of_what_diverged_or_is_missing_has_no_bound():
    assert math.isnan(bound_of_median([1.0, math.inf, math.inf], [0.1] * 3))
    assert bound_of_median([1.0, 2.0, math.inf], [0.1] * 3) == pytest.approx(0.1)
    assert math.isnan(bound_of_median([], [])) and math.isnan(bound_of_median([math.nan], [0.1]))
    assert median([1.0, 2.0, math.inf]) == 2.0


def test_the_largest_bound_is_of_those_that_are_there():
    assert largest([None, 1e-9, math.nan, 2e-9]) == 2e-9 and math.isnan(largest([None])) and math.isnan(largest([]))
