"""The report on a made-up results folder whose statistics are known by hand.

Zero-shot is 0.4, so a step size works when every seed ends below 0.1.
"""

import ast
import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pinn_lora import report as module
from pinn_lora.effects import effects
from pinn_lora.report import ReportError, report

PACKAGE = Path(module.__file__).parent
CASE = "burgers-up"
COLUMNS = "step,loss,held_out_loss,relative_l2,work,seconds,step_size,accepted,drift,points"

# method: trains, metric, lift, integrator, optimizer, implicit, mass
METHODS = {
    "odelora-implicit": ("factors", "identity", "balanced", "rosenbrock_euler", None, True, "balanced"),
    "lora-lm": ("factors", "identity", "chain_rule", "rosenbrock_euler", None, True, "identity"),
    "odelora-euler": ("factors", "identity", "balanced", "euler", None, False, "balanced"),
    "odelora-rk4": ("factors", "identity", "balanced", "rk4", None, False, "balanced"),
    "lora-sgd": ("factors", "identity", "chain_rule", "euler", None, False, "identity"),
    "scaled-gd": ("factors", "identity", "block_diagonal", "euler", None, False, "block_diagonal"),
    "lora-adam": ("factors", None, None, None, "adam", False, None),
    "full-adam": ("all weights", None, None, None, "adam", False, None),
    "full-lm": ("all weights", "identity", None, "rosenbrock_euler", None, True, "identity"),
}


def write_study(folder: Path, *, cases: tuple[str, ...] = (CASE,), **changes) -> Path:
    (folder / "cases").mkdir(parents=True)
    (folder / "runs").mkdir()
    (folder / "config.toml").write_text("seeds = [0, 1, 2]  # <as run>\n")
    x, t = np.linspace(-1, 1, 9), np.linspace(0, 1, 5)
    field = np.sin(3 * x)[:, None] * (1 + t)
    names = np.array(["x", "t"])
    described = []
    for case in cases:
        arrays = {"axis_0": x, "axis_1": t, "names": names, "reference": field, "zero_shot": 1.4 * field}
        np.savez(folder / "cases" / f"{case}.npz", **arrays)
        about = {"id": case, "title": f"Title of {case}", "problem": "Burgers", "base": "Burgers(nu=1.0)", "rank": 4}
        about |= {"target": "Burgers(nu=2.0)", "form": "ansatz", "network": "3 x 24", "zero_shot": 0.4}
        described.append(about | {"base_error": 1e-5, "base_seconds": 12.0, "unknowns_full": 1321})
    study = {"name": "made-up", "title": "A made-up study", "description": "Known <numbers>.", "comparison": True}
    study |= {
        "command": "pinn-lora run made-up.toml",
        "started": "2025-01-01T00:00:00",
        "config": {},
        "cases": described,
    }
    study |= {"finished": "2025-01-01T01:00:00", "versions": {"numpy": "2.0"}, "seeds": [0, 1, 2]}
    study |= {"machine": {"processor": "a processor", "cores": 2, "memory_gib": 8.0, "threads": 1, "jobs": 1}}
    (folder / "study.json").write_text(json.dumps(study | changes))
    return folder


def write_run(folder: Path, method: str, step: float, seed: int, **changes) -> Path:
    """One run; `history` (rows of work, held-out loss, relative L2, drift) and `field` are files, the rest run.json."""
    history, field = changes.pop("history", None), changes.pop("field", None)
    trains, metric, lift, integrator, optimizer, implicit, mass = METHODS[method]
    run = {"case": CASE, "method": method, "start": "zero_b" if trains == "factors" else "pretrained", "trains": trains}
    run |= {"metric": metric, "lift": lift, "integrator": integrator, "optimizer": optimizer, "implicit": implicit}
    run |= {"bends": implicit, "order": None if optimizer else 4 if integrator == "rk4" else 1, "idle": []}
    run |= {"parts": {"optimizer": {"name": optimizer}} if optimizer else parts_of(metric, lift, integrator)}
    run |= {"adaptive": implicit, "mass": mass, "step_size": step, "rank": 4, "seed": seed, "unknowns": 384}
    run |= {"status": "COMPLETED", "message": "budget spent", "relative_l2": 0.2, "held_out_loss": 0.01, "steps": 100}
    run |= {"accepted": 90, "seconds": 2.0, "work": 100.0, "unit_seconds": 0.02, "threads": 1, "peak_memory_mib": 300.0}
    run |= {"counts": {"gradients": 100, "residuals": 1, "jacobians": 2, "solves": 3}} | changes
    if run["status"] in ("DIVERGED", "REFUSED"):
        run |= {"relative_l2": None, "held_out_loss": None}
    place = folder / "runs" / f"{run['case']}-{method}-{run['start']}-{step:g}-{seed}"
    place.mkdir()
    (place / "run.json").write_text(json.dumps(run | {"id": place.name}))
    if history is not None:
        rows = [f"{n},1,{loss},{l2},{work},{work / 50},1,True,{d},9" for n, (work, loss, l2, d) in enumerate(history)]
        (place / "history.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    if field is not None:
        np.savez(place / "field.npz", prediction=np.asarray(field, dtype=np.float32))
    return place


def parts_of(metric: str, lift: str | None, integrator: str) -> dict:
    """As a run of a flow tells them: of all weights the lift is the chain rule."""
    named = {"metric": metric, "lift": lift or "chain_rule", "integrator": integrator}
    return {part: {"name": name} for part, name in named.items()} | {"decay": False}


def write_cell(folder: Path, method: str, step: float, errors: tuple, losses: tuple | None = None, **changes) -> None:
    """One run a seed; an error of None is a diverged run."""
    for seed, error in enumerate(errors):
        loss = losses[seed] if losses else error
        status = {"status": "DIVERGED"} if error is None else {}
        write_run(folder, method, step, seed, **({"relative_l2": error, "held_out_loss": loss} | status | changes))


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def variant_of(folder: Path, method: str, start: str | None = None, case: int = 0):
    found = [v for v in module.load(folder).variants[case] if v.runs[0].method == method]
    return next(variant for variant in found if start in (None, variant.runs[0].start))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    """A reported folder with two starts, a tuned step that the reference disagrees with, diverged and refused runs."""
    folder = write_study(tmp_path_factory.mktemp("results") / "made-up")
    field = 1.01 * np.sin(3 * np.linspace(-1, 1, 9))[:, None] * (1 + np.linspace(0, 1, 5))
    history = [(0, 1.0, 0.4, 0.0), (10, 0.01, 0.09, 1e-17), (20, 0.2, 0.05, 1e-16), (40, 0.001, 0.02, 1e-15)]
    balanced = {"start": "balanced", "history": history, "field": field, "work": 40.0, "seconds": 0.8}
    write_cell(folder, "odelora-implicit", 1.0, (0.02, 0.03, 0.01), (1e-3, 1e-3, 1e-3), **balanced)
    write_cell(folder, "odelora-implicit", 100.0, (0.02, 0.03, 0.04), (2e-3, 2e-3, 2e-3), **balanced)
    write_cell(folder, "lora-lm", 1.0, (0.05, 0.06, 0.04), start="balanced")
    write_cell(folder, "lora-sgd", 1e-3, (0.15, 0.15, 0.15), (0.5, 0.5, 0.5))
    write_cell(folder, "lora-sgd", 1e-2, (0.25, 0.25, 0.3), (0.4, 0.3, 0.9))
    write_cell(folder, "lora-sgd", 1e-1, (0.01, None, None), (1e-9, None, None))
    write_cell(folder, "odelora-euler", 1e-1, (None, None, 0.2))
    for seed in range(3):
        refused = {"message": "18.8 GiB do not fit", "counts": None, "steps": None, "work": None, "seconds": None}
        write_run(folder, "full-lm", 1.0, seed, status="REFUSED", **refused)
    for name in ("unfinished", "another"):
        (folder / "runs" / name).mkdir()
    assert report(folder) == folder / "report.html"
    return folder


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


def test_the_page_says_how_many_seeds_every_pair_has_at_least(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "results")
    for start, seeds in (("zero_b", 3), ("balanced", 2)):
        write_cell(folder, "odelora-euler", 1.0, (0.1,) * seeds, start=start)
        write_cell(folder, "lora-sgd", 1.0, (0.2,) * 3, start=start)
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    page = report(folder).read_text(encoding="utf-8")
    assert "more accurate in 2 of 2 pairs, at equal seconds in 2; observed with 2 seeds a variant or more." in page
    assert "in no pair" not in page


def test_a_folder_of_an_older_version_is_reported_and_what_it_does_not_say_is_told(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "results")
    for method in ("lora-lm", "odelora-implicit"):
        path = write_run(folder, method, 1.0, 0) / "run.json"
        old = json.loads(path.read_text())
        path.write_text(json.dumps({key: old[key] for key in old.keys() - {"parts", "idle", "bends", "order"}}))
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    page = report(folder).read_text(encoding="utf-8")
    assert "2 variants of this study are in no pair: their runs do not say by which parts they were made" in page
    assert "2 runs: they do not say, an older version wrote them. The study was last run with numpy 2.0" in page
    assert not (folder / "effects.csv").exists()


def test_the_page_lists_what_the_runs_were_made_by(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "results")
    machine = {"processor": "one processor", "cores": 2, "memory_gib": 8.0}
    new = {"source": "abc123", "versions": {"torch": "2.13.0"}, "machine": machine, "clock": "CPU"}
    write_cell(folder, "lora-adam", 1.0, (0.1, 0.1), **new)
    write_run(folder, "lora-sgd", 1.0, 0, **new | {"versions": {"torch": "2.4.0"}})
    write_run(folder, "lora-sgd", 1.0, 1, **new | {"machine": machine | {"processor": "another"}, "clock": "wall"})
    write_run(folder, "full-adam", 1.0, 0)
    write_run(folder, "full-lm", 1.0, 0, status="REFUSED", **new)
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    page = report(folder).read_text(encoding="utf-8")
    told = re.findall(r"<li>(.*)", page)
    assert sorted(told) == [
        "1 run: source abc123; torch 2.13.0; on another, 2 cores, 8.0 GiB; 1 thread a run, wall clock.",
        "1 run: source abc123; torch 2.4.0; on one processor, 2 cores, 8.0 GiB; 1 thread a run, CPU clock.",
        "1 run: they do not say, an older version wrote them. The study was last run with numpy 2.0, on a processor, 2 cores, "
        "8.0 GiB; 1 thread a run, wall clock.",
        "2 runs: source abc123; torch 2.13.0; on one processor, 2 cores, 8.0 GiB; 1 thread a run, CPU clock.",
    ]
    assert told[0].startswith("2 runs: ")
    costs = page[page.index("Cost of the runs") :]
    (line,) = [line for line in costs.splitlines() if "CPU and wall clocks" in line]
    assert line.startswith("<tr><td") and "lora-sgd" in line
    assert {row["method"]: row["clocks"] for row in rows_of(folder, "summary")} == {
        "lora-adam": "CPU",
        "lora-sgd": "CPU and wall",
        "full-adam": "wall",
        "full-lm": "",
    }


def test_the_page_shows_the_file_and_what_the_command_made_of_it(tmp_path, monkeypatch):
    config = {"dtype": "float32", "device": "cpu", "jobs": 2}
    folder = write_study(tmp_path / "results", seeds=[3, 4], config=config, command="pinn-lora run x.toml --seed 3")
    write_run(folder, "lora-adam", 1.0, 3)
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    page = report(folder).read_text(encoding="utf-8")
    assert (
        "where the command above has options, they come before what it says: as run, seeds = [3, 4], dtype = float32,"
        in page
    )
    assert "The configuration, as run" not in page


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


def test_the_page(made_up):
    page = (made_up / "report.html").read_text(encoding="utf-8")
    loads = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]{5})|url\(|@import|<script|<link""", page)
    assert set(loads) == {"data:"}
    assert not re.search(r"https?://", page)
    assert "18.8 GiB do not fit" in page and "2 run folders without a result are left out" in page
    assert "Known &lt;numbers&gt;." in page and "&lt;as run&gt;" in page
    assert "not the comparison" not in page and "pinn-lora run made-up.toml" in page and "numpy 2.0" in page
    names = {path.name for path in (made_up / "figures").iterdir()}
    assert names == {f"{CASE}-{name}.png" for name in ("error-work", "error-seconds", "step-sizes", "fields", "drift")}
    assert len(rows_of(made_up, "runs")) == 9 + 9 + 3 + 3
    assert {"gradients", "peak_memory_mib", "status"} <= rows_of(made_up, "runs")[0].keys()


def test_the_same_folder_gives_the_same_page(made_up):
    files = [made_up / "report.html", *made_up.glob("*.csv"), *(made_up / "figures").iterdir()]
    before = [path.read_bytes() for path in files]
    report(made_up)
    assert [path.read_bytes() for path in files] == before


def test_a_poor_folder_is_reported_all_the_same(tmp_path):
    """One seed, one step, an empty history, nan and inf, no fields; a case with refused runs only, one without runs."""
    folder = write_study(tmp_path / "results", cases=(CASE, "refused", "empty"), comparison=False, finished=None)
    for case in (CASE, "empty"):
        (folder / "cases" / f"{case}.npz").unlink()
    (write_run(folder, "lora-sgd", 1.0, 0, work=None, seconds=None, peak_memory_mib=None) / "history.csv").touch()
    write_run(
        folder, "lora-adam", 1.0, 0, relative_l2=None, history=[(0, "nan", "nan", "nan"), (3, "inf", "inf", "inf")]
    )
    write_run(folder, "odelora-rk4", 1.0, 0, status="DIVERGED", work=None, seconds=None, history=[])
    write_run(folder, "full-lm", 1.0, 0, case="refused", status="REFUSED", counts=None)
    page = report(folder).read_text(encoding="utf-8")
    assert "This is a demonstration, not the comparison" in page and "This study is not finished" in page
    assert "Title of refused" in page and "no variant ended without diverging" in page
    assert "Title of empty" not in page  # nothing is said of what was not run


def test_a_bad_folder_is_refused_in_one_sentence(tmp_path):
    holds = "a results folder holds study.json"
    with pytest.raises(ReportError, match=f"^'{tmp_path / 'none'}' is not a folder: {holds}.*[.]$"):
        report(tmp_path / "none")
    with pytest.raises(ReportError, match=f"^'{tmp_path}' has no study.json that lists cases: {holds}"):
        report(tmp_path)
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(ReportError, match=f"^'{tmp_path}' has no study.json that lists cases: {holds}"):
        report(tmp_path)
    folder = write_study(tmp_path / "results")
    (folder / "runs" / "unfinished").mkdir()
    with pytest.raises(ReportError, match=f"^'{folder}' has no finished run .*: {holds}"):
        report(folder)
    place = write_run(folder, "lora-adam", 1.0, 0)
    (place / "history.csv").write_text(f"{COLUMNS}\n1,2,three\n")
    with pytest.raises(ReportError, match=f"^'{place / 'history.csv'}' is not a table"):
        report(folder)
    write_run(folder, "lora-adam", 1.0, 1, case="another")
    with pytest.raises(ReportError, match="the case 'another', which its study"):
        report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("text", ["{", "{}", "[]", "other"])
def test_a_damaged_run_is_named(tmp_path, text):
    folder = write_study(tmp_path / "results")
    other, place = (write_run(folder, "lora-adam", 1.0, seed) for seed in (0, 1))
    (place / "run.json").write_text((other / "run.json").read_text() if text == "other" else text)
    with pytest.raises(ReportError, match=f"^'{place / 'run.json'}' is damaged or of another run; run the study again"):
        report(folder)


@pytest.mark.parametrize("content", [b"", b"PK", b"no arrays"])
def test_a_damaged_field_is_named_and_can_be_left_out(tmp_path, content):
    folder = write_study(tmp_path / "results")
    place = write_run(folder, "lora-adam", 1.0, 0, field=np.ones((9, 5)))
    (place / "field.npz").write_bytes(content)
    with pytest.raises(ReportError, match=f"^'{place / 'field.npz'}' is damaged.*put it back as it was, or remove it"):
        report(folder)
    (place / "field.npz").unlink()
    assert report(folder).is_file()


@pytest.mark.parametrize("name", ["report", "figures", "cells", "effects"])
def test_only_reading_and_drawing_is_imported(name):
    roots, own = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        roots |= {full.split(".")[0] for full in found}
        own |= {full.split(".")[1] for full in found if full.startswith("pinn_lora.")}
    assert own <= {"report", "figures", "cells", "effects", "folders"}
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


def test_the_page_says_which_clock_the_runs_were_timed_by(tmp_path):
    folder = write_study(tmp_path)
    write_run(folder, "odelora-implicit", 1.0, 0, clock="CPU")
    write_run(folder, "odelora-implicit", 1.0, 1, clock="wall")
    write_run(folder, "odelora-implicit", 1.0, 2)
    page = report(folder).read_text()
    assert "1 of 3 runs were timed by their process" in page
    assert "2 were timed by the wall clock" in page
