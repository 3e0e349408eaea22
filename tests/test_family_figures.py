"""The figure of a family: what is drawn where."""

import math

import numpy as np
import pytest

from pinn_lora.families.figures import plot_family

BASE = {"nu": 0.01, "c": 1.0, "relative_l2": 5e-5, "residual": 1e-3}


def row(nu, error, *, c=1.0, seed=0, status="COMPLETED", zero_shot=0.1):
    return {
        "nu": nu,
        "c": c,
        "relative_l2": error,
        "zero_shot": zero_shot,
        "residual": 2e-3,
        "zero_shot_residual": 0.5,
        "status": status,
        "seed": seed,
    }


def line(axes, start):
    return next(drawn for drawn in axes.get_lines() if str(drawn.get_label()).startswith(start))


def test_median_and_zero_shot_over_a_logarithmic_parameter():
    rows = [row(nu, error, seed=s) for nu in (0.04, 0.02) for s, error in enumerate((1e-4 * nu, 3e-4 * nu, 9e-4 * nu))]
    (axes,) = plot_family(rows, ["nu"], base=BASE, scratch=[row(0.04, 7e-5)]).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    adapted = line(axes, "adapted: median of 3 seeds")
    np.testing.assert_allclose(adapted.get_xdata(), [0.02, 0.04])
    np.testing.assert_allclose(adapted.get_ydata(), [6e-6, 1.2e-5], rtol=1e-12)
    np.testing.assert_allclose(line(axes, "zero-shot").get_ydata(), [0.1, 0.1])
    np.testing.assert_allclose(line(axes, "trained from scratch").get_ydata(), [7e-5])
    np.testing.assert_allclose(line(axes, "the base, on its own").get_xdata(), [0.01])


def labels(axis):
    """What is written at the ticks that are seen, and whether it is their value."""
    axis.axes.figure.canvas.draw()
    low, high = axis.get_view_interval()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    told = [(tick.get_loc(), tick.label1.get_text()) for tick in ticks]
    return {place: text for place, text in told if low <= place <= high and text}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(20.0, 40.0, 9), [20, 30, 40]),
        (np.geomspace(0.0016, 0.032, 20), [0.002, 0.005, 0.01, 0.02]),
        (np.geomspace(2.2, 12.0, 20), [3, 5, 10]),
        (np.geomspace(21.0, 24.0, 9), [21, 21.5, 22, 22.5, 23, 23.5, 24]),
    ],
    ids=["a third of a decade", "above one", "below one", "no multiple of a power of ten"],
)
@pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
def test_a_logarithmic_axis_of_less_than_two_decades_has_plain_numbers(values, expected, two):
    """At least three, and nothing but the numbers themselves."""
    rows = [row(float(value), 1e-3, c=1.0 + value) for value in values]
    axes = plot_family(rows, ["nu", "c"] if two else ["nu"], base={**BASE, "nu": float(values[0])}).axes[
        -2 if two else 0
    ]
    found = labels(axes.xaxis)
    assert axes.get_xscale() == "log" and sorted(found) == pytest.approx(expected, rel=1e-9)
    assert all(float(text) == pytest.approx(place, rel=1e-6) and "e" not in text for place, text in found.items())


def test_a_logarithmic_axis_of_more_decades_keeps_its_powers_of_ten():
    rows = [row(float(value), 1e-3) for value in np.geomspace(1e-4, 1.0, 12)]
    found = labels(plot_family(rows, ["nu"], base=BASE).axes[0].xaxis)
    assert sorted(found) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0]) and all(
        "10^" in text for text in found.values()
    )


def test_a_coefficient_of_either_sign_has_a_linear_axis():
    (axes,) = plot_family([row(-1.0, 1e-3), row(1.0, 1e-3)], ["nu"], base=BASE).axes
    assert axes.get_xscale() == "linear"


def test_what_diverged_is_a_cross_and_no_median():
    rows = [row(0.02, 1e-3), row(0.04, math.nan, status="DIVERGED")]
    (axes,) = plot_family(rows, ["nu"], base=BASE).axes
    np.testing.assert_allclose(line(axes, "diverged").get_xdata(), [0.04])
    assert math.isnan(line(axes, "adapted").get_ydata()[1])


def test_without_a_reference_residuals_are_drawn():
    rows = [{**row(nu, None), "zero_shot": None} for nu in (0.02, 0.04)]
    (axes,) = plot_family(rows, ["nu"], base={**BASE, "relative_l2": None}).axes
    assert "residual" in axes.get_ylabel()
    np.testing.assert_allclose(line(axes, "adapted").get_ydata(), [2e-3, 2e-3])
    np.testing.assert_allclose(line(axes, "zero-shot").get_ydata(), [0.5, 0.5])


def test_two_coefficients_are_a_picture_in_colour_with_zero_shot_beside_it():
    rows = [row(0.02, 1e-3, c=2.0), row(0.04, 4e-3, c=3.0), row(0.05, math.nan, c=4.0, status="DIVERGED")]
    figure = plot_family(rows, ["nu", "c"], base=BASE)
    before, after = figure.axes[:2]
    np.testing.assert_allclose(before.collections[0].get_array(), [0.1, 0.1])
    np.testing.assert_allclose(after.collections[0].get_array(), [1e-3, 4e-3])
    np.testing.assert_allclose(after.collections[0].get_offsets(), [[0.02, 2.0], [0.04, 3.0]])
    assert before.collections[0].norm is after.collections[0].norm
    np.testing.assert_allclose(line(after, "diverged").get_xdata(), [0.05])
    figure.canvas.draw()
    for axes in (before, after):  # the base's 0.01 among them: powers of ten would name it alone
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.01", "0.02", "0.04", "0.05"]
        assert not len(axes.get_xticks(minor=True))


def test_more_coefficients_are_refused():
    with pytest.raises(ValueError, match="in which one or two coefficients vary; here: a, b, c"):
        plot_family([row(0.02, 1e-3)], ["a", "b", "c"], base=BASE)
