"""A study's folder: going on where it stopped, damage, other studies, one process at a time."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_study import ROUND, TINY, run, runs_of

from pinn_lora.cells import ReportError
from pinn_lora.config import ConfigError
from pinn_lora.folders import alone
from pinn_lora.report import report


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("study") / "tiny")


def test_running_again_does_only_what_is_missing(finished):
    stamps = {path: path.stat().st_mtime_ns for path in finished.glob("runs/*/run.json")}
    lost = sorted(stamps)[0]
    before = json.loads(lost.read_text())
    lost.unlink()
    run(finished)
    for path, stamp in stamps.items():
        assert (path.stat().st_mtime_ns != stamp) == (path == lost)
    again = json.loads(lost.read_text())
    assert again["relative_l2"] == before["relative_l2"], "same seed, same numbers"


@pytest.mark.parametrize("text", ["{", "{}", "other"])
def test_a_run_whose_record_is_damaged_or_of_another_case_is_made_again(finished, tmp_path, text):
    shutil.copytree(finished, folder := tmp_path / "tiny")
    runs = sorted(folder.glob("runs/*/run.json"))
    before, kept = json.loads(runs[0].read_text()), runs[1].stat().st_mtime_ns
    runs[0].write_text(json.dumps(before | {"case": "02-other"}) if text == "other" else text)
    run(folder)
    assert json.loads(runs[0].read_text())["held_out_loss"] == before["held_out_loss"]
    assert runs[1].stat().st_mtime_ns == kept


def test_a_tuned_study_with_a_damaged_run_goes_on_and_its_report_names_it(tmp_path):
    text = TINY.replace("rank = 2", "rank = 2\nfull_scan = false")
    folder = run(tmp_path / "tiny", text)
    made = set(runs_of(folder))
    for path in folder.glob("runs/*lora-sgd*seed0/run.json"):
        path.write_text("{")
    with pytest.raises(ReportError, match=r"run.json' is damaged or of another run; run the study again"):
        report(folder)
    run(folder, text)
    assert set(runs_of(folder)) == made and report(folder).is_file()


def test_what_is_said_of_a_case_is_made_again_where_it_is_damaged(finished, tmp_path):
    shutil.copytree(finished, folder := tmp_path / "tiny")
    (path,) = folder.glob("cases/*.json")
    before = path.read_text()
    path.write_text("{")
    run(folder)
    assert path.read_text() == before


def test_a_damaged_base_is_no_runs_fault(finished, tmp_path):
    shutil.copytree(finished, folder := tmp_path / "tiny")
    (base,) = folder.glob("bases/*")
    (lost,) = folder.glob("runs/*full-lm*seed1")
    shutil.rmtree(lost)
    (base / "pinn_lora.json").write_text("{")
    with pytest.raises(ConfigError, match=rf"; remove the folder {base}, and the base is made again$"):
        run(folder)
    assert not lost.exists()
    shutil.rmtree(base)
    run(folder)
    assert json.loads((lost / "run.json").read_text())["status"] == "COMPLETED"


def test_a_folder_where_another_process_is_at_work_is_left_alone(finished):
    """Not even what looks like a killed run's rest is cleared: it may be the other's."""
    left = finished / "runs" / ".partial-living"
    left.mkdir()
    with alone(finished), pytest.raises(OSError, match=r"another process is at work in .*tiny; nothing was changed"):
        run(finished)
    assert left.is_dir()
    left.rmdir()


def test_what_a_killed_run_left_is_cleared(finished):
    left = finished / "runs" / ".partial-killed"
    left.mkdir()
    (left / "history.csv").write_text("step\n")
    run(finished)
    assert not left.exists()


def children(pid: int) -> list[int]:
    return [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads the processes from /proc")
def test_a_killed_study_leaves_no_worker_behind(tmp_path):
    text = TINY.replace("max_steps = 12", "max_steps = 1000000")  # a run that would go on for hours
    (tmp_path / "tiny.toml").write_text(text.replace("[1e-3, 1e3]", "[1e-9, 1e-8]"))
    arguments = ["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "two"), "--jobs", "2", "--quiet"]
    script = "import sys; sys.argv = ['x', *sys.argv[1:]]; from pinn_lora.cli import main; main()"
    study = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("two/runs/*odelora-implicit*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = children(study.pid)
    assert len(workers) >= 2
    study.kill()
    study.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_folder_from_before_a_key_had_a_default_is_continued(finished):
    path = finished / "study.json"
    study = json.loads(path.read_text())
    del study["config"]["compile"], study["config"]["method"][0]["decay"]
    path.write_text(json.dumps(study))
    run(finished)
    assert json.loads(path.read_text())["config"]["compile"] is False


def test_folder_of_another_study_or_of_something_else_is_left_alone(finished, tmp_path):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    told = (
        r"holds a study of another config: seeds was \[0, 1\] and is \[5\]; nothing was changed: choose another --out"
    )
    with pytest.raises(ConfigError, match=told):
        run(finished, TINY.replace("seeds = [0, 1]", "seeds = [5]"))
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a results folder; nothing was changed"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_a_damaged_study_is_refused_and_left_as_it_is(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ConfigError, match=r"study.json is damaged or not a study's: it must hold config and started"):
        run(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("study.json", text)]


def test_a_study_is_not_reached_through_a_folder_that_is_not_there(finished):
    before = (finished / "study.json").read_text()
    with pytest.raises(ConfigError, match="holds a study of another config"):
        run(finished.parent / "gone" / ".." / finished.name, TINY.replace("seeds = [0, 1]", "seeds = [5]"))
    assert (finished / "study.json").read_text() == before and not (finished.parent / "gone").exists()


def test_runs_of_a_file_that_was_edited_are_not_mixed(tmp_path):
    """Nothing is made or kept under another equation; put back, the study goes on; so does one that was begun before the
    file's hash was kept, and it is kept from then on."""
    (tmp_path / "round.py").write_text(ROUND)
    text = TINY[: TINY.index("[[method]]")].replace("nu", "k").replace("/pi", "*pi").replace('"burgers"', '"round.py"')
    text += '[[method]]\nname = "lora-sgd"\nmax_steps = 2\n'
    folder = run(tmp_path / "tiny", text, origin=tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "round.py").write_text(ROUND.replace("+ 4.0", "+ 3.0"))
    with pytest.raises(
        ConfigError, match=r"^round\.py was edited since .*tiny was begun.*choose another --out, or put"
    ):
        run(folder, text, origin=tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (tmp_path / "round.py").write_text(ROUND)
    run(folder, text, origin=tmp_path)
    study = json.loads((folder / "study.json").read_text())
    (told,) = study.pop("problem_files").items()
    assert told == ("round.py", hashlib.sha256(ROUND.encode()).hexdigest())
    (folder / "study.json").write_text(json.dumps(study))
    (tmp_path / "round.py").write_text(ROUND + "# mended\n")
    run(folder, text, origin=tmp_path)
    with pytest.raises(ConfigError, match="was edited since"):
        (tmp_path / "round.py").write_text(ROUND)
        run(folder, text, origin=tmp_path)


HEAD, ONE_CASE = TINY.partition("[[method]]")[0].split("[[case]]")
TWO_CASES = f"""
{HEAD.replace("[0, 1]", "[0]")}
[[case]]{ONE_CASE}
[[case]]{ONE_CASE.replace("0.5/pi", "0.4/pi")}
[[method]]
name = "odelora-implicit"
max_steps = 2
"""


def test_one_case_alone_and_the_others_later(tmp_path):
    folder = run(tmp_path / "study", TWO_CASES, only=[2])
    study = json.loads((folder / "study.json").read_text())
    assert len(runs_of(folder)) == 1 and study["finished"] is None and study["planned"] == 2
    assert [case["id"][:2] for case in study["cases"]] == ["02"]
    assert "0.4/pi" in report(folder).read_text()
    run(folder, TWO_CASES)
    study = json.loads((folder / "study.json").read_text())
    assert len(runs_of(folder)) == 2 and study["finished"]
    assert [case["id"][:2] for case in study["cases"]] == ["01", "02"]


def test_a_case_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^there is no case 3; the study has 2, numbered from 1$"):
        run(tmp_path / "study", TWO_CASES, only=[2, 3])
    assert not (tmp_path / "study").exists()
