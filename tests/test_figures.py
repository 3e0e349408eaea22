"""Figures: what is drawn, in which style, and that nothing is left behind."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pinn_lora import figures
from pinn_lora.cells import Case, Cell, Run, Variant


def make_run(method: str, *, start: str = "zero_b", seed: int = 0, folder: Path = Path("nowhere"), **changes) -> Run:
    record = {"work": 100.0, "seconds": 2.0, "method": method, "start": start, "seed": seed, "trains": "factors"}
    record |= {"implicit": False, "adaptive": False, "step_size": 0.01, "status": "COMPLETED", "relative_l2": 0.01}
    return Run.read(folder, record | {"held_out_loss": 1e-3, "case": "case"} | changes)


def make_variant(case: Case, *runs: Run) -> Variant:
    steps = sorted({run.step_size for run in runs if run.status != "REFUSED"})
    cells = [Cell(step, tuple(run for run in runs if run.step_size == step), case.zero_shot) for step in steps]
    return Variant(case, runs, tuple(cells))


@pytest.fixture
def case(tmp_path) -> Case:
    x, t = np.linspace(0, 1, 7), np.linspace(0, 2, 4)
    reference = np.outer(x, t)
    arrays = {"axis_0": x, "axis_1": t, "names": np.array(["x", "t"]), "reference": reference}
    np.savez(tmp_path / "case.npz", zero_shot=1.2 * reference, **arrays)
    return Case("case", "A case", {}, 0.2, tmp_path / "case.npz")


def test_variants_are_told_apart_by_colour_line_and_marker():
    runs = [make_run("lora-adam", optimizer="adam"), make_run("full-adam", optimizer="adam", start="pretrained")]
    for method in ("odelora-euler", "odelora-heun", "odelora-rk4"):
        runs += [make_run(method, lift="balanced", start=start) for start in ("zero_b", "balanced", "another")]
    runs += [make_run("odelora-implicit", lift="balanced", implicit=True)]
    look = figures.looks(runs)
    assert len({(style["color"], style["marker"], str(style["linestyle"])) for style in look.values()}) == len(runs)
    assert look["odelora-euler, zero_b"]["color"] == look["odelora-rk4, balanced"]["color"]
    assert look["odelora-euler, zero_b"]["color"] != look["odelora-implicit, zero_b"]["color"]
    assert look["odelora-euler, zero_b"]["linestyle"] == look["lora-adam, zero_b"]["linestyle"]


def test_every_figure_is_drawn_and_shows_zero_shot(case, tmp_path):
    np.savez(tmp_path / "field.npz", prediction=1.01 * case.grid["reference"])
    history = "step,relative_l2,work,seconds,drift\n1,0.1,10,0.2,0\n2,0.05,50,1,1e-3\n"
    (tmp_path / "history.csv").write_text(history)
    good = make_variant(case, make_run("a", folder=tmp_path), make_run("a", folder=tmp_path, step_size=0.1))
    bad = make_variant(case, make_run("b", status="DIVERGED", adaptive=True), make_run("b", seed=1))
    refused = make_variant(case, make_run("c", status="REFUSED", message="too large"))
    variants = (good, bad, refused)
    before = dict(matplotlib.rcParams)
    drawn = figures.draw(case, variants, figures.looks([run for variant in variants for run in variant.runs]))
    assert dict(matplotlib.rcParams) == before
    assert set(drawn) == {"error-work", "error-seconds", "step-sizes", "fields", "drift"}
    for name in ("error-work", "error-seconds"):
        assert legend_of(drawn[name].axes[0])[-2:] == ["c, zero_b: refused", "zero-shot, 2.0e-1"]
    words = [text.get_text() for text in drawn["step-sizes"].axes[0].texts]
    assert words == ["★1.0e-2", "1.0e-2", "★div 1/2", "refused: too large"]
    assert [label.get_text() for label in drawn["step-sizes"].axes[0].get_yticklabels()][1] == "b, zero_b (adaptive)"
    assert [axes.get_title() for axes in drawn["fields"].axes[:3]] == [
        "reference solution",
        "zero-shot\nrelative L2 2.0e-1",
        "a, zero_b\nseed 0, relative L2 1.0e-2",
    ]


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_many_variants_are_drawn_in_two_panels_of_the_same_axes(case, tmp_path):
    (tmp_path / "history.csv").write_text("step,relative_l2,work,seconds,drift\n1,0.1,10,0.2,1\n2,0.05,50,1,1\n")
    told = [(f"m{n}", n % 3 == 0) for n in range(figures.CROWD + 1)]
    variants = [make_variant(case, make_run(name, implicit=kind, folder=tmp_path)) for name, kind in told]
    look = figures.looks([variant.runs[0] for variant in variants])
    few = figures.draw(case, variants[:-1], look)["error-work"]
    assert len(few.axes) == 1 and len(legend_of(few.axes[0])) == len(variants)
    many = figures.draw(case, variants, look)["error-work"]
    names = [{line.split(",")[0] for line in legend_of(axes)} - {"zero-shot"} for axes in many.axes]
    assert names == [{name for name, implicit in told if implicit is kind} for kind in (True, False)]
    first, second = many.axes
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())
    explicit = figures.draw(case, [v for v in variants * 2 if not v.runs[0].implicit], look)["error-work"]
    assert len(explicit.axes) == 1, "nothing to part"


def test_the_imbalance_is_drawn_from_the_start_on_and_not_below_what_rounding_makes(case, tmp_path):
    (tmp_path / "history.csv").write_text(
        "step,relative_l2,work,seconds,drift\n0,0.4,0,0,1e-17\n1,0.1,1,1,2e-9\n2,0.05,2,2,1e-3\n"
    )
    variant = make_variant(case, make_run("a", folder=tmp_path))
    figure = figures.draw(case, [variant], figures.looks(variant.runs))["drift"]
    (axes,) = figure.axes
    for line in axes.lines[:2]:  # the seed's and the median
        assert line.get_xdata().tolist() == [0, 1, 2]
        assert line.get_ydata().tolist() == [figures.BALANCED, 2e-9, 1e-3]
    assert axes.get_xlim()[0] <= 0 and axes.get_ylim()[0] > figures.BALANCED / 10
    assert axes.get_ylabel() == "imbalance of B and A"


@pytest.mark.parametrize("error", [1e-9, 1e-4, 0.3])
def test_a_colour_of_the_map_is_the_same_share_of_zero_shot_whatever_was_found(case, error):
    figure = figures.step_map([make_variant(case, make_run("a", relative_l2=error))], title="A case", zero_shot=0.2)
    norm = figure.axes[0].collections[0].norm
    assert (norm.vmin, norm.vmax) == (pytest.approx(0.2e-5), 0.2)


def test_without_data_there_is_no_figure(case):
    nowhere = replace(case, path=Path("nowhere.npz"))
    assert figures.draw(nowhere, (), {}) == {}


def test_a_map_of_one_step_size_has_room_for_its_legend(case):
    check_legend(make_variant(case, make_run("a")), star="tuned step size")


def test_a_map_says_where_only_one_seed_was_run(case):
    tuned = [make_run("a", seed=seed) for seed in range(3)]
    check_legend(
        make_variant(case, *tuned, make_run("a", step_size=0.1)), star="tuned step size (3 seeds; other cells 1)"
    )
    check_legend(make_variant(case, *tuned), star="tuned step size")
    check_legend(make_variant(case, *tuned[:1], make_run("a", step_size=0.1)), star="tuned step size")
    scanned = make_variant(case, *tuned, make_run("a", step_size=0.1))
    unfinished = make_variant(case, make_run("b"))
    check_legend(scanned, unfinished, star="tuned step size (1 to 3 seeds; other cells 1)")


def check_legend(*variants: Variant, star: str) -> None:
    figure = figures.step_map(variants, title="A case", zero_shot=0.2)
    assert figure is not None
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_texts()[-1].get_text() == star
    assert figure.bbox.contains(*legend.get_window_extent().min)
    assert figure.bbox.contains(*legend.get_window_extent().max)


def test_the_field_of_the_median_seed_is_shown(case, tmp_path):
    runs = []
    for seed, loss in enumerate((3.0, 1.0, 2.0)):
        place = tmp_path / str(seed)
        place.mkdir()
        np.savez(place / "field.npz", prediction=case.grid["reference"])
        runs.append(make_run("a", seed=seed, folder=place, held_out_loss=loss))
    chosen = figures._typical(make_variant(case, *runs))
    assert chosen is not None and chosen.seed == 2
    (tmp_path / "2" / "field.npz").unlink()
    chosen = figures._typical(make_variant(case, *runs))
    assert chosen is not None and chosen.seed == 1


def test_powers_of_ten():
    assert [figures.power_of_ten(step) for step in (1e-3, 3e-3, 1.0)] == ["$10^{-3}$", "3·$10^{-3}$", "$10^{0}$"]
