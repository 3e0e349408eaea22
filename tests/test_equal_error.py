"""Seconds from scratch to the adapted error, against curves whose crossing is known."""

import csv
import math

import numpy as np
import pytest

from pinn_lora.families.equal_error import HISTORY, adapted_row, equal_error_verdict, reached, seconds_to, to_adapted


def adapted(error, status="COMPLETED"):
    return {"relative_l2": error, "status": status}


def history(folder, seconds, errors):
    with (folder / HISTORY).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "relative_l2", "seconds"])
        writer.writerows((i, e, s) for i, (e, s) in enumerate(zip(errors, seconds, strict=True)))
    return folder / HISTORY


@pytest.mark.parametrize("seed", range(5))
def test_the_first_line_at_or_below_the_error_counts(tmp_path, seed):
    rng = np.random.default_rng(seed)
    seconds = np.cumsum(rng.uniform(0.1, 2.0, 40))
    errors = np.geomspace(1.0, 1e-5, 40) * rng.uniform(0.3, 3.0, 40)  # not monotone
    path = history(tmp_path, seconds, errors)
    for target in (*errors, 2.0, 3e-3):
        below = seconds[errors <= target]
        assert seconds_to(path, target) == below[0], "float to text and back is exact"
    assert seconds_to(path, errors.min() / 2) == math.inf
    assert seconds_to(history(tmp_path, [0.0, 1.0], [math.nan, 0.5]), 1.0) == 1.0, "nan reaches nothing"


def test_it_is_compared_with_the_same_problem_and_seed():
    rows = [{"seed": seed, "nu": nu, "c": c} for seed in (0, 1) for nu in (0.1, 0.2) for c in (1, 2)]
    for i, own in enumerate(rows):
        assert adapted_row(rows, {**own, "seconds": 1.0}, ["nu", "c"]) is rows[i]
    assert adapted_row(rows, {"seed": 2, "nu": 0.1, "c": 1}, ["nu", "c"]) is None


def test_what_cannot_be_compared_says_nothing(tmp_path):
    path = history(tmp_path, [0.0, 4.0, 9.0], [1.0, 1e-2, 1e-4])
    assert to_adapted(path, adapted(5e-3)) == {"seconds_to_adapted": 9.0}
    assert to_adapted(path, adapted(1e-5)) == {"seconds_to_adapted": "never"}
    assert to_adapted(path, None) == to_adapted(path, adapted(5e-3, "DIVERGED")) == {}
    assert to_adapted(path, adapted(None)) == to_adapted(tmp_path / "other.csv", adapted(5e-3)) == {}


def test_the_median_counts_never_as_infinite():
    rows = [{"seconds_to_adapted": value} for value in (3.0, "never", 5.0)]
    assert reached(rows) == 5.0 and reached(rows[:2]) == math.inf and reached(rows[1:2]) == math.inf
    assert math.isnan(reached([{"seconds_to_adapted": None}, {}]))


@pytest.mark.parametrize(("base", "members"), [(51.0, 4), (52.0, 4), (55.0, 5), (12.9, 1), (700.0, 54)])
def test_the_share_and_the_break_even_are_those_of_the_medians(tmp_path, base, members):
    """Of three unequal seeds: s = 21, a = 8, so n >= b / 13 with b the bases' median; the share is the median of the shares,
    6 / 17 = 35.3 %, 8 / 21 = 38.1 % and 11 / 40 = 27.5 %. No mean, least or largest gives these numbers."""
    rows, scratch, bases = [], [], []
    for seed, (a, s, b) in enumerate([(6.0, 17.0, base / 3), (8.0, 21.0, 2 * base), (11.0, 40.0, base)]):
        rows.append({"seed": seed, "nu": 0.1, "seconds": a, **adapted(1e-3)})
        folder = tmp_path / str(seed)
        folder.mkdir()
        path = history(folder, [0.0, s - 1.0, s, s + 50.0], [1.0, 2e-3, 9e-4, 1e-5])
        scratch.append({"seed": seed, "nu": 0.1, "seconds": 100.0, **to_adapted(path, rows[-1])})
        bases.append({"seconds": b})
    (said,) = equal_error_verdict({"bases": bases, "rows": rows, "scratch": scratch, "varied": ["nu"]})
    assert "took 21 s and adapting 8 s, 35.3 % of it (medians over 3 runs)" in said
    assert said.endswith(f"is as quick from {members} member{'s' if members > 1 else ''} on.")
