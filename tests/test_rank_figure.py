"""The figure of rank against distance: what is drawn where."""

import math

import numpy as np
import pytest

from pinn_lora.families.rank_figure import ASIDE, GAP, plot_ranks

BASE = {"nu": 0.01, "a": 1, "b": 4}


def row(distance, rank, error, *, seed=0, status="COMPLETED", **values):
    told = {"relative_l2": error, "zero_shot": 0.4, "residual": 1.0, "zero_shot_residual": 2.0, "status": status}
    return {"seed": seed, "distance": distance, "rank": rank, **values, **told}


def line(axes, start):
    return next(drawn for drawn in axes.get_lines() if str(drawn.get_label()).startswith(start))


def names(axes):
    return {text.get_text(): text for text in axes.texts}


def test_a_line_a_rank_over_distance_with_zero_shot_dashed():
    rows = [row(d, rank, d / rank, a=1, b=b) for d, b in ((0.9, 1), (0.2, 5), (0.5, 2)) for rank in (4, 1)]
    (axes,) = plot_ranks(rows, ["a", "b"], base=BASE, key="relative_l2").axes
    for rank in (1, 4):
        np.testing.assert_allclose(line(axes, f"rank {rank}").get_xdata(), [0.2, 0.5, 0.9])
        np.testing.assert_allclose(line(axes, f"rank {rank}").get_ydata(), np.array([0.2, 0.5, 0.9]) / rank)
    zero_shot = line(axes, "zero-shot")
    assert zero_shot.get_linestyle() == "--" and axes.get_yscale() == "log"
    np.testing.assert_allclose(zero_shot.get_ydata(), [0.4] * 3)
    np.testing.assert_allclose(line(axes, "a quarter").get_ydata(), [0.1] * 3)
    assert set(names(axes)) == {"1, 1", "1, 5", "1, 2", "a, b"}


def test_what_one_coefficient_tells_apart_has_a_panel_for_each_side():
    rows = [row(0.7, 2, 0.03, nu=0.005), row(0.7, 2, 0.01, nu=0.02), row(1.4, 2, 0.02, nu=0.04)]
    below, above = plot_ranks(rows, ["nu"], base=BASE, key="relative_l2").axes
    assert "nu below 0.01" in below.get_xlabel() and "nu above 0.01" in above.get_xlabel()
    np.testing.assert_allclose(line(below, "rank 2").get_ydata(), [0.03])
    np.testing.assert_allclose(line(above, "rank 2").get_ydata(), [0.01, 0.02])


def test_medians_over_seeds_and_members_at_one_distance_side_by_side():
    rows = [row(0.7, 2, e, seed=s, a=2, b=4) for s, e in enumerate((0.1, 0.3, 0.2))]
    rows.append(row(math.nextafter(0.7, 1), 2, 0.05, a=1, b=2))  # as far, but for rounding
    rows.append(row(1.7, 2, 0.4, a=3, b=4))
    (axes,) = plot_ranks(rows, ["a", "b"], base=BASE, key="relative_l2").axes
    x, y = line(axes, "rank 2").get_data()
    np.testing.assert_allclose(y, [0.2, 0.05, 0.4])
    assert x[0] < 0.7 < x[1] < 0.75 and x[0] + x[1] == pytest.approx(1.4) and x[2] == 1.7
    assert x[1] - x[0] == pytest.approx(ASIDE * 1.0)


def test_a_run_that_diverged_is_a_cross_and_a_gap():
    rows = [row(0.2, 2, 0.1, a=1, b=5), row(0.5, 2, 0.1, status="DIVERGED", a=1, b=2)]
    (axes,) = plot_ranks(rows, ["a", "b"], base=BASE, key="relative_l2").axes
    assert math.isnan(line(axes, "rank 2").get_ydata()[1])
    crosses = next(drawn for drawn in axes.get_lines() if drawn.get_marker() == "x")
    np.testing.assert_allclose(crosses.get_xdata(), [0.5])


@pytest.mark.parametrize("ends", [(0.0, 0.001), (0.999, 1.0), (0.0, 1.0)])
def test_names_of_near_members_stand_apart_and_inside(ends):
    distances = np.linspace(*ends, 9)
    far = [row(d, 1, 0.1, a=i, b=4) for i, d in enumerate((*distances, 0.0, 1.0), start=2)]
    (axes,) = plot_ranks(far, ["a", "b"], base=BASE, key="relative_l2").axes
    places = sorted(text.get_position()[0] for name, text in names(axes).items() if name != "a, b")
    assert len(places) == 11 and np.diff(places).min() > 0.999 * GAP and places[-1] <= 1.0
