"""The report on a made-up results folder whose statistics are known by hand.

Zero-shot is 0.4, so a step size works when every seed ends below 0.1.
"""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up import CASE, rows_of, variant_of, write_cell, write_run, write_study

from pinn_lora import report as module
from pinn_lora.effects import effects
from pinn_lora.report import report

PACKAGE = Path(module.__file__).parent


def test_the_tuned_step_ignores_the_reference(made_up):
    """1e-3 has the lower error and 1e-1 the lowest single loss; 1e-2 has the lowest median held-out loss."""
    row = next(row for row in rows_of(made_up, "summary") if row["method"] == "lora-sgd")
    assert float(row["tuned_step_size"]) == 1e-2
    assert [float(row[f"relative_l2{end}"]) for end in ("", "_min", "_max")] == [0.25, 0.25, 0.3]
    assert float(row["held_out_loss"]) == 0.4
    assert (row["diverged_tuned"], row["diverged"], row["runs"]) == ("0", "2", "9")
    assert float(row["diverged_share"]) == pytest.approx(2 / 9)


def test_a_tuned_step_size_at_the_edge_of_its_grid_is_marked(tmp_path, monkeypatch):
    """In the table of the case and in the CSV; not where one was tried, in the middle, or of an adaptive method."""
    folder = write_study(tmp_path / "results")
    for method, losses in {
        "lora-sgd": (0.3, 0.2, 0.1),
        "scaled-gd": (0.3, 0.1, 0.2),
        "odelora-euler": (0.1,),
        "lora-lm": (0.1, 0.2),
    }.items():
        for step, loss in zip((1e-3, 1e-2, 1e-1), losses, strict=False):
            write_cell(folder, method, step, (0.1,), (loss,))
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    page = report(folder).read_text(encoding="utf-8")
    told = {row["method"]: row["tuned_at_edge"] for row in rows_of(folder, "summary")}
    assert told == {"lora-sgd": "True", "scaled-gd": "False", "odelora-euler": "False", "lora-lm": "False"}
    table = page[page.index("Accuracy at tuned step sizes") : page.index("Stability (zero-shot")]
    (line,) = [line for line in table.splitlines() if "<small>edge</small>" in line]
    assert line.startswith("<td>1e-1 <small>edge</small><td>1<td>1.0e-1")
    assert page.count("<em>edge</em> beside it says") == 1


def test_a_median_with_diverged_runs_is_infinite(made_up):
    cells = {(row["method"], row["step_size"]): row for row in rows_of(made_up, "steps")}
    cell = cells["lora-sgd", "0.1"]
    assert (cell["relative_l2"], cell["relative_l2_min"], cell["relative_l2_max"]) == ("inf", "0.01", "inf")
    assert (float(cell["diverged_share"]), cell["works"]) == (pytest.approx(2 / 3), "False")
    assert next(row["relative_l2"] for row in rows_of(made_up, "summary") if row["method"] == "odelora-euler") == "inf"


def test_only_the_step_sizes_with_the_most_seeds_can_be_tuned(tmp_path):
    """A scan with one seed, then the other seeds at the best step: those at the other steps do not win afterwards."""
    folder = write_study(tmp_path / "results")
    write_cell(folder, "lora-adam", 1e-3, (0.05,), (0.02,))
    write_cell(folder, "lora-adam", 1e-2, (0.01, 0.5, 0.5), (0.01, 0.5, 0.5))
    variant = variant_of(folder, "lora-adam")
    assert variant.tuned.step_size == 1e-2
    row = module.summary_row(variant, {"work": [], "seconds": []})
    assert (row["seeds"], row["fewest_seeds"], row["steps_working"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("working", "width"),
    [
        ((1, 1, 0, 1, 1, 1), (2.0, 1e-2, 1.0)),
        ((0, 0, 1, 0, 0, 0), (0.0, 1e-3, 1e-3)),
        ((1, 1, 0, 1, 1, 0), (1.0, 1e-5, 1e-4)),
        ((0, 0, 0, 0, 0, 0), (math.nan,) * 3),
    ],
)
def test_width_is_of_the_longest_contiguous_stretch(tmp_path, working, width):
    folder = write_study(tmp_path / "results")
    for step, works in zip((1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), working, strict=True):
        write_cell(folder, "lora-adam", step, (0.01, 0.09 if works else 0.11, 0.02))
    assert module.width(variant_of(folder, "lora-adam")) == pytest.approx(width, nan_ok=True)


def test_spikes(tmp_path):
    """The smallest value before is exceeded 20 times by 0.2, 10 times (no spike) by 0.1, more by 0.0101 and inf."""
    folder = write_study(tmp_path / "results")
    losses = (1.0, 0.01, 0.2, "nan", 0.1, 0.001, 0.0101, "inf", 0.001)
    write_run(folder, "lora-adam", 1.0, 0, history=[(n, loss, 0.1, "") for n, loss in enumerate(losses)])
    write_run(folder, "lora-adam", 1.0, 1, history=[(0, 1.0, 0.1, ""), (1, 0.5, 0.1, "")])
    write_run(folder, "lora-adam", 1.0, 2)
    runs = variant_of(folder, "lora-adam").tuned.runs
    assert module.spikes(runs[0]) == (3, math.inf)
    assert module.spikes(runs[1]) == (0, 0.5)
    assert module.spikes(runs[2]) == (0, pytest.approx(math.nan, nan_ok=True))


def test_at_equal_work_values_are_carried_forward(tmp_path):
    folder = write_study(tmp_path / "results")
    history = [(5, 1.0, 0.4, ""), (10, 1.0, 0.3, ""), (20, 1.0, "nan", ""), (40, 1.0, 0.2, "")]
    write_run(folder, "lora-adam", 1.0, 0, history=history, seconds=0.8, relative_l2=0.2)
    write_run(folder, "lora-adam", 1.0, 1, history=history[:2], seconds=0.3, status="DIVERGED")
    write_run(folder, "lora-adam", 1.0, 2, history=history[:2], seconds=0.2, relative_l2=0.3)
    variant = variant_of(folder, "lora-adam")
    lasting, diverged, short = variant.tuned.runs
    budgets = [1, 5, 9, 10, 39, 40, 1e6]
    np.testing.assert_array_equal(lasting.at("work", budgets), [math.nan, 0.4, 0.4, 0.3, 0.3, 0.2, 0.2])
    np.testing.assert_array_equal(diverged.at("work", budgets), [math.nan, 0.4, 0.4, 0.3, *[math.inf] * 3])
    np.testing.assert_array_equal(short.at("work", budgets), [math.nan, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3])
    assert module.median(module.at(variant, "work", 40)) == 0.3
    assert module.end(variant, "work") == 40
    assert module.ladder([variant], "work") == [10, 30]
    assert module.ladder([variant], "seconds") == [0.1, 0.3]


def test_the_ladder_and_the_chosen_rungs(made_up):
    """The balanced implicit runs end at 40 units, all others at 100."""
    variants = [variant for variant in module.load(made_up).variants[0] if variant.tuned]
    assert module.ladder(variants, "work") == [10, 30, 100]
    assert module.chosen(variants, "work") == [30, 100]
    rows = {(row["method"], float(row["budget"])): row for row in rows_of(made_up, "ladder") if row["axis"] == "work"}
    assert [rows["odelora-implicit", w]["relative_l2"] for w in (10.0, 30.0, 100.0)] == ["0.09", "0.05", "0.02"]
    assert rows["odelora-implicit", 100.0]["relative_l2_max"] == "0.03"
    assert rows["odelora-euler", 100.0]["relative_l2"] == "inf"
    summary = {row["method"]: row for row in rows_of(made_up, "summary")}
    assert (summary["odelora-implicit"]["work_1"], summary["odelora-implicit"]["relative_l2_at_work_1"]) == (
        "30.0",
        "0.05",
    )
    assert float(summary["odelora-implicit"]["drift"]) == 1e-15
    assert (summary["odelora-implicit"]["spikes"], float(summary["odelora-implicit"]["largest_spike"])) == ("1.0", 20.0)
    assert (summary["full-lm"]["refused"], summary["full-lm"]["relative_l2"]) == ("18.8 GiB do not fit", "")


def test_effects_are_compared_at_what_both_have_reached(tmp_path):
    folder = write_study(tmp_path / "results")
    write_cell(folder, "lora-lm", 1.0, (0.02,))
    write_cell(folder, "odelora-implicit", 1.0, (0.04,))
    for method, error in (("odelora-euler", 0.01), ("lora-sgd", None)):
        write_cell(folder, method, 1.0, (error,), start="balanced")
    rows = effects(module.load(folder).variants[0])
    found = {(row["a"], row["b"]): row for row in rows if row["effect"] == "balanced mass or identity"}
    implicit, explicit = (
        ("odelora-implicit, zero_b", "lora-lm, zero_b"),
        ("odelora-euler, balanced", "lora-sgd, balanced"),
    )
    assert set(found) == {implicit, explicit} and len(rows) == 2
    assert found[implicit]["ratio_at_work"] == found[implicit]["ratio_at_seconds"] == 2.0
    assert found[explicit]["ratio_at_work"] == 0
    assert {row["seeds"] for row in rows} == {1}


def test_work_is_in_one_unit_of_a_case_and_trainable_set(tmp_path):
    """Units of 1, 2 and 9 ms: one of 2 for all, in the tables, the ladder and on the curves; another of all weights."""
    folder = write_study(tmp_path / "results")
    history = [(10, 1.0, 0.4, ""), (40, 1.0, 0.2, "")]  # at 0.2 and 0.8 s
    ended = {"history": history, "seconds": 0.8, "clock": "CPU"}
    for seed, unit in enumerate((0.001, 0.002, 0.009)):
        write_run(folder, "lora-adam", 1.0, seed, unit_seconds=unit, work=0.8 / unit, **ended)
    write_run(folder, "lora-sgd", 1.0, 0, unit_seconds=0.001, **ended | {"clock": "wall"})
    write_run(folder, "full-adam", 1.0, 0, unit_seconds=0.004, **ended)
    write_run(folder, "full-lm", 1.0, 0, status="REFUSED", unit_seconds=None, seconds=None, work=None)
    report(folder)
    summary = {row["method"]: row for row in rows_of(folder, "summary")}
    assert {name: (row["work"], row["unit_seconds"]) for name, row in summary.items()} == {
        "lora-adam": ("400.0", "0.002"),
        "lora-sgd": ("800.0", "0.001"),
        "full-adam": ("200.0", "0.004"),
        "full-lm": ("", ""),
    }
    adam = [row for row in rows_of(folder, "runs") if row["method"] == "lora-adam"]
    assert [row["work"] for row in adam] == ["400.0"] * 3
    assert [row["unit_seconds"] for row in adam] == ["0.001", "0.002", "0.009"], "as each measured it"
    for run in variant_of(folder, "lora-adam").tuned.runs:
        np.testing.assert_allclose(run.curve("work")[0], [100, 400, 400], rtol=1e-12)
    at_100 = [r for r in rows_of(folder, "ladder") if r["axis"] == "work" and float(r["budget"]) == 100]
    assert {row["method"]: row["relative_l2"] for row in at_100}["lora-adam"] == "0.4"


def test_the_step_size_is_the_one_that_the_study_tuned_with_its_first_seed(tmp_path, monkeypatch):
    """1e-3 has as many runs, left from a narrower grid, and the lower median; the first seed's loss is lower at 1e-2."""
    cases = [{"full_scan": True}, {"full_scan": False}]
    errors = {1e-3: (0.05, 0.03, 0.03), 1e-2: (0.02, 0.09, 0.09), 1e-1: (0.03,)}
    for number, tuned in ((1, 1e-3), (2, 1e-2)):
        case = f"0{number}-burgers"
        study = {"cases": (case,), "config": {"case": cases}, "finished": None, "planned": 5}
        folder = write_study(tmp_path / case, **study)
        for step, found in errors.items():
            write_cell(folder, "lora-adam", step, found, case=case)
        assert variant_of(folder, "lora-adam").tuned.step_size == tuned
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    page = report(folder).read_text(encoding="utf-8")
    assert "2 runs are in no plan" in page and "5 of 5 planned runs are made" in page
    assert [row["tuned"] for row in rows_of(folder, "steps")] == ["False", "True", "False"]


def test_the_table_of_costs_has_what_the_runs_counted(tmp_path):
    folder = write_study(tmp_path / "results")
    for seed, scale in enumerate((1, 2, 7)):
        counts = {"gradients": 100 * scale, "residuals": 10 * scale, "jacobians": 20 * scale, "solves": 30 * scale}
        told = {"peak_memory_mib": 300.0 * scale, "seconds": 5.0 * scale, "steps": 11 * scale, "accepted": 9 * scale}
        write_run(folder, "lora-adam", 1.0, seed, counts=counts, **told)
    row = module.summary_row(variant_of(folder, "lora-adam"), {"work": [], "seconds": []})
    found = {key: row[key] for key in (*counts, *told)}
    assert found == {key: value / 7 * 2 for key, value in (counts | told).items()}, "the median of 1, 2 and 7"


def test_a_refused_partner_is_named(made_up):
    row = next(row for row in rows_of(made_up, "effects") if row["effect"] == "factors or all weights")
    assert (row["a"], row["note"]) == ("lora-lm, balanced", "full-lm, pretrained refused: 18.8 GiB do not fit")
    assert row["ratio_at_work"] == ""


@pytest.mark.parametrize(("implicit", "words"), [(0.01, "won every comparison"), (0.3, "lost every comparison")])
def test_the_verdict_says_who_won(tmp_path, implicit, words):
    folder = write_study(tmp_path / "results")
    write_cell(folder, "lora-lm", 1.0, (implicit,) * 3)
    write_cell(folder, "lora-adam", 1e-2, (0.05,) * 3)
    said = " ".join(module.verdict(module.load(folder)))
    assert f"the implicit methods {words}" in said
    assert ("lora-lm" if implicit < 0.05 else "lora-adam") + ", zero_b (in 1 of 1)" in said


def test_the_verdict_names_the_losses(tmp_path):
    folder = write_study(tmp_path / "results")
    write_cell(folder, "lora-lm", 1.0, (0.01,), history=[(0, 1, 0.4, ""), (90, 1, 0.3, ""), (100, 1, 0.01, "")])
    write_cell(folder, "lora-adam", 1e-2, (0.05,), unit_seconds=10.0 / 95.0, seconds=10.0, clock="CPU")
    said = " ".join(module.verdict(module.load(folder)))
    assert f"the implicit methods lost at equal work in Title of {CASE}." in said


def test_the_verdict_of_a_study_whose_runs_were_all_refused(tmp_path):
    folder = write_study(tmp_path / "results")
    write_run(folder, "lora-adam", 1e-2, 0, status="REFUSED")
    said = module.verdict(module.load(folder))
    assert "No variant was run." in said and "Of 1 finished runs 0 diverged and 1 were refused." in said
    assert not [words for words in said if "more accurate" in words or "every variant diverged" in words]


def test_of_a_case_without_a_reference_nothing_is_said_of_errors(tmp_path):
    """Neither in sentences nor in tables; of another case of the study all is said."""
    folder = write_study(tmp_path / "results", cases=(CASE, "other"))
    study = json.loads((folder / "study.json").read_text())
    study["cases"][1]["zero_shot"] = study["cases"][1]["base_error"] = None
    (folder / "study.json").write_text(json.dumps(study))
    for case, errors in ((CASE, (0.01, 0.5)), ("other", (None, None))):
        write_run(folder, "lora-lm", 1.0, 0, case=case, relative_l2=errors[0])
        write_run(folder, "lora-adam", 1e-2, 0, case=case, relative_l2=errors[1], held_out_loss=0.02)
    path = module.report(folder)
    said = " ".join(module.verdict(module.load(folder)))
    assert "1 of 2 cases have no reference, so none of their errors is known." in said
    assert "lora-lm, zero_b (in 1 of 1)" in said and "lora-lm, zero_b (in 2 of 2)" in said
    assert "1 of 1 cases at the end" in said and "1 of 2 tuned variants end no better" in said
    assert [row["works"] for row in rows_of(folder, "steps")] == ["True", "False", "", ""]
    assert [row["steps_working"] for row in rows_of(folder, "summary")] == ["1", "0", "", ""]
    assert "<td>– of 1" in path.read_text() and "<td>1 of 1" in path.read_text()
    study["cases"][0]["zero_shot"] = None
    (folder / "study.json").write_text(json.dumps(study))
    said = " ".join(module.verdict(module.load(folder)))
    assert "2 of 2 cases have no reference" in said
    assert not [words for words in ("relative L2", "accurate", "no better", "No variant was run") if words in said]


@pytest.mark.parametrize("name", ["report", "figures", "cells", "effects", "marks"])
def test_only_reading_and_drawing_is_imported(name):
    roots, own = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        roots |= {full.split(".")[0] for full in found}
        own |= {full.split(".")[1] for full in found if full.startswith("pinn_lora.")}
    assert own <= {"report", "figures", "cells", "effects", "folders", "marks"}
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "matplotlib", "PIL", "jinja2", "pinn_lora"}


def test_reporting_needs_neither_torch_nor_pyplot(made_up):
    """The package's __init__ imports training, so the two modules are imported from a package without one."""
    code = """
import pathlib, sys, types
package = sys.modules["pinn_lora"] = types.ModuleType("pinn_lora")
package.__path__ = [sys.argv[1]]
from pinn_lora.report import load
load(pathlib.Path(sys.argv[2]))
assert not {"torch", "matplotlib.pyplot"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(PACKAGE), str(made_up)], check=True)
