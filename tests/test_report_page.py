"""The report's page: what it says of a study, and folders that it cannot be made of."""

import json
import re

import numpy as np
import pytest
from made_up import CASE, COLUMNS, rows_of, write_cell, write_run, write_study

from pinn_lora import report as module
from pinn_lora.marks import MARK
from pinn_lora.report import ReportError, report


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


def test_the_page_says_which_clock_the_runs_were_timed_by(tmp_path):
    folder = write_study(tmp_path)
    write_run(folder, "odelora-implicit", 1.0, 0, clock="CPU")
    write_run(folder, "odelora-implicit", 1.0, 1, clock="wall")
    write_run(folder, "odelora-implicit", 1.0, 2)
    page = report(folder).read_text()
    assert "1 of 3 runs were timed by their process" in page
    assert "2 were timed by the wall clock" in page


def test_a_ratio_of_thousands_is_written_out(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "results")
    write_cell(folder, "lora-lm", 1.0, (5e-5,))
    write_cell(folder, "lora-adam", 1e-2, (0.1,))
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    assert "<b>won</b>, 2,000 times" in report(folder).read_text(encoding="utf-8")


def near_its_reference(folder, **told):
    """A case whose errors from 1e-2 on are known to two digits where its runs, or the case, are `told` a bound of 1e-4."""
    folder = write_study(folder)
    history = [(0, 1.0, 0.4, 0.0), (10, 0.01, 0.009, 1e-17), (20, 0.2, 0.05, 1e-16)]
    fixed = {"adaptive": False, "bends": False}  # then it makes a pair with the other
    write_cell(folder, "lora-lm", 1.0, (0.009, 0.008, 0.02), history=history, **fixed, **told)
    write_cell(folder, "lora-sgd", 1.0, (0.02, 0.03, 0.01), history=history, **told)
    return folder


def test_an_error_near_the_references_own_is_marked_wherever_it_stands(tmp_path, monkeypatch):
    folder = near_its_reference(tmp_path / "results", reference_error=1e-4)
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    page = report(folder).read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if f"<td>9.0e-3{MARK}<br><small>" in line)
    assert f"[8.0e-3{MARK}, 2.0e-2]" in row, "each value by itself"
    assert "<td>2.0e-2<br><small>[1.0e-2, 3.0e-2]</small>" in page, "what is known is not marked"
    assert f"lora-lm, zero_b<td>9.0e-3<td>9.0e-3{MARK}" in page, "the verdict, whose held-out loss is no error"
    assert f"<b>won</b>, 2.22 times{MARK}" in page, "a ratio with it"
    assert f"<td>zero_b<td>COMPLETED<td>1<td>0<td>9.0e-3{MARK}<td>9.0e-3<td>" in page, "every run"
    (pair,) = rows_of(folder, "effects")
    assert (pair["a"], pair["near_reference"]) == ("lora-lm, zero_b", "a_at_end a_at_work a_at_seconds")
    assert f"<td>9.0e-3{MARK}<td>2.0e-2<td>0.45<td>2<td>9.0e-3{MARK}<td>2.0e-2" in page, "effects"
    notes = page.count(f"<small>{MARK} Below 100 times what the reference itself may err by")
    assert notes == 4, "verdict, accuracy, effects, every run; no error of the table of stability is one"
    (summary,) = [row for row in rows_of(folder, "summary") if row["method"] == "lora-lm"]
    assert summary["reference_error"] == "0.0001"
    assert {"relative_l2", "relative_l2_min"} <= set(summary["near_reference"].split())
    assert "relative_l2_max" not in summary["near_reference"] and "zero_shot" not in summary["near_reference"]
    for name, several in (("steps", 1), ("ladder", 1), ("runs", 2)):
        marked = [row for row in rows_of(folder, name) if row["near_reference"]]
        assert len(marked) >= several and {row["method"] for row in marked} >= {"lora-lm"}
    assert [row["near_reference"] for row in rows_of(folder, "runs")].count("relative_l2") == 2


@pytest.mark.parametrize("told", [{}, {"reference_error": None}, {"reference_error": 1e-9}], ids=repr)
def test_nothing_is_marked_where_all_is_known_or_no_bound_is_told(tmp_path, monkeypatch, told):
    """A closed form has none, and runs of older versions say none."""
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    folder = near_its_reference(tmp_path / "results", **told)
    assert MARK not in report(folder).read_text(encoding="utf-8")
    assert not any(row["near_reference"] for row in rows_of(folder, "summary"))


def test_a_case_tells_the_bounds_of_zero_shot_and_of_its_base(tmp_path, monkeypatch):
    """The base's error is taken on another problem, by another reference."""
    monkeypatch.setattr(module.figures, "draw", lambda *_: {})
    folder = near_its_reference(tmp_path / "results")
    study = json.loads((folder / "study.json").read_text())
    for told, base, zero_shot in (
        ({"reference_error": 5e-3}, "1.0e-5", f"4.0e-1{MARK}"),
        ({"base_reference_error": 2e-7}, f"1.0e-5{MARK}", "4.0e-1"),
    ):
        cases = [case | told for case in study["cases"]]
        (folder / "study.json").write_text(json.dumps(study | {"cases": cases}))
        page = report(folder).read_text(encoding="utf-8")
        assert f"a relative L2 of {base} on its own problem" in page
        assert f"(the base used unchanged here): {zero_shot}." in page and f"(zero-shot {zero_shot}; a step" in page
