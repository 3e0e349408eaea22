"""Studies end to end: the results folder, resuming, refusing foreign folders, runs that fail."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

import pinn_lora as pl
from pinn_lora.cells import ReportError
from pinn_lora.config import ConfigError, check_config
from pinn_lora.folders import alone
from pinn_lora.plan import plan_cases, plan_jobs
from pinn_lora.report import report
from pinn_lora.study import run_study

TINY = """
name = "tiny"
title = "Tiny"
seeds = [0, 1]
points = 100
resamplings = 1
[[case]]
problem = "burgers"
base = { nu = "0.3/pi" }
target = { nu = "0.5/pi" }
width = 6
depth = 2
rank = 2
pretrain = { max_steps = 15, points = 150 }
[[method]]
name = "odelora-implicit"
max_steps = 8
[[method]]
name = "lora-sgd"
step_sizes = [1e-3, 1e3]
max_steps = 12
[[method]]
name = "full-lm"
max_steps = 4
"""


def run(folder, text=TINY, **options):
    config = check_config(tomllib.loads(text), where="tiny.toml")
    return run_study(config, folder, command="pinn-lora run tiny.toml", source=text, progress=False, **options)


def runs_of(folder):
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/run.json"))}
    assert all(name == run["id"] for name, run in found.items())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("study") / "tiny")


def test_results_folder_holds_every_run(finished):
    study, runs = json.loads((finished / "study.json").read_text()), runs_of(finished)
    assert len(runs) == 2 + 2 * 2 + 2
    assert study["finished"] and study["command"] == "pinn-lora run tiny.toml"
    assert {"torch", "deepxde", "pinn_lora", "python"} <= set(study["versions"])
    assert (finished / "config.toml").read_text() == TINY
    (case,) = study["cases"]
    assert case["zero_shot"] > 0 and case["base_error"] > 0 and case["network"] == "2 x 6"
    arrays = np.load(finished / "cases" / f"{case['id']}.npz")
    assert arrays["reference"].shape == arrays["zero_shot"].shape == (101, 101)
    assert not list(finished.glob("**/*partial*"))


def test_another_seed_gives_another_run(finished):
    """Other points and other factors to begin with, so no number is the same by chance."""
    for method in ("odelora-implicit", "full-lm"):
        losses = [run["held_out_loss"] for run in runs_of(finished).values() if run["method"] == method]
        assert len(losses) == len(set(losses)) == 2


def test_diverged_runs_are_results(finished):
    states = [
        run["status"] for run in runs_of(finished).values() if run["method"] == "lora-sgd" and run["step_size"] == 1e3
    ]
    assert states == ["DIVERGED", "DIVERGED"]


def test_run_files_agree_with_each_other(finished):
    for name, run in runs_of(finished).items():
        with (finished / "runs" / name / "history.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        if run["relative_l2"] is not None:
            assert float(last["relative_l2"]) == pytest.approx(run["relative_l2"], rel=1e-6)  # a history has 7 digits
        assert float(last["work"]) == pytest.approx(run["work"], rel=1e-6) and int(last["step"]) == run["steps"]
        assert (run["lift"], run["implicit"]) == {
            "odelora-implicit": ("balanced", True),
            "lora-sgd": ("chain_rule", False),
            "full-lm": (None, True),
        }[run["method"]]


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


def test_a_reference_that_cannot_be_computed_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"the reference of Burgers.* cannot be computed: .*; nothing was made$"):
        run(tmp_path / "tiny", TINY.replace('"0.5/pi"', "1e-6"))
    assert not (tmp_path / "tiny").exists()


def test_run_that_cannot_be_made_is_recorded_and_the_study_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("pinn_lora.memory.available_mib", lambda device: 0.01)
    text = TINY.replace('name = "odelora-implicit"\nmax_steps = 8', 'name = "lora-adam"\nmax_steps = 3')
    text = text.replace(
        "pretrain = { max_steps = 15, points = 150 }", 'pretrain = { method = "full-adam", max_steps = 5 }'
    )
    runs = runs_of(run(tmp_path / "tiny", text)).values()
    refused = [run for run in runs if run["method"] == "full-lm"]
    assert len(runs) == 8 and len(refused) == 2
    assert all(run["status"] == "REFUSED" and "unknowns" in run["message"] for run in refused)
    assert all(run["status"] != "REFUSED" for run in runs if run["method"] != "full-lm")


def test_a_method_of_its_own_parts_trains_all_weights_where_it_says_so(finished, tmp_path):
    """The parts of full-lm under another name: the same runs, number by number."""
    parts = 'name = "mine"\nintegrator = "rosenbrock_euler"\ntrains = "all weights"'
    again = runs_of(run(tmp_path / "tiny", TINY.replace('name = "full-lm"', parts))).values()
    told = lambda runs, name: [(r["unknowns"], r["relative_l2"], r["counts"]) for r in runs if r["method"] == name]  # noqa: E731
    expected = told(runs_of(finished).values(), "full-lm")
    assert len(expected) == 2 and told(again, "mine") == expected


def test_a_case_with_a_network_of_its_own(tmp_path):
    text = TINY.replace("rank = 2", 'rank = 2\nnetwork = { name = "pirate_net", fourier = 3, activation = "sin" }')
    folder = run(tmp_path / "tiny", text)
    (base,) = folder.glob("bases/*")
    network = pl.Solution.load(base).network
    assert type(network).__name__ == "PirateNet" and (network.fourier, network.activation, network.width) == (
        3,
        "sin",
        6,
    )
    assert all(record["status"] in ("COMPLETED", "DIVERGED") for record in runs_of(folder).values())
    (case,) = folder.glob("cases/*.json")
    assert "pirate_net 2 x 6, activation sin, fourier 3" in json.loads(case.read_text())["title"]


def test_step_size_is_tuned_with_the_first_seed_by_the_held_out_loss(tmp_path):
    text = TINY.replace("rank = 2", "rank = 2\nfull_scan = false").replace("[1e-3, 1e3]", "[1e-5, 1e-3, 1e3]")
    folder = run(tmp_path / "tiny", text)
    found = {(r["step_size"], r["seed"]): r for r in runs_of(folder).values() if r["method"] == "lora-sgd"}
    best = min((1e-5, 1e-3), key=lambda h: found[h, 0]["held_out_loss"])
    assert set(found) == {(1e-5, 0), (1e-3, 0), (1e3, 0), (best, 1)}
    study = json.loads((folder / "study.json").read_text())
    assert study["planned"] == len(runs_of(folder))
    assert study["methods"]["odelora-implicit"]["reconstructed"] is True
    assert "Hu et al. 2021" in study["methods"]["lora-sgd"]["source"]


def test_two_processes_give_the_same_numbers(finished, tmp_path):
    one, two = runs_of(finished), runs_of(run(tmp_path / "two", "jobs = 2\n" + TINY))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name]["held_out_loss"] == two[name]["held_out_loss"]


def test_plan_counts_cases_and_methods():
    config = check_config(tomllib.loads(TINY), where="x")
    assert len(plan_jobs(config, plan_cases(config))) == 8


def test_a_method_stands_twice_for_different_cases():
    second = TINY[TINY.index("[[case]]") : TINY.index("[[method]]")].replace('"0.5/pi"', '"0.4/pi"')
    text = TINY.replace("[[method]]", second + "points = 60\n[[method]]", 1).replace(
        'name = "lora-sgd"', 'name = "lora-sgd"\ncases = [1]'
    )
    text += '[[method]]\nname = "lora-sgd"\ncases = [2]\nstep_sizes = [1e-5]\n'
    config = check_config(tomllib.loads(text), where="x")
    jobs = plan_jobs(config, plan_cases(config))
    found = {(job.case.id[:2], job.step_size) for job in jobs if job.method.name == "lora-sgd"}
    assert found == {("01", 1e-3), ("01", 1e3), ("02", 1e-5)}
    assert next(job.case.config.points for job in jobs if job.case.id.startswith("02")) == 60
    with pytest.raises(ConfigError, match="the method 'lora-sgd' stands twice for case 1"):
        check_config(tomllib.loads(text.replace("cases = [2]", "cases = [1, 2]")), where="x")


ROUND = """
from dataclasses import dataclass

import pinn_lora as pl
from pinn_lora.ball import Ball


@dataclass(frozen=True)
class Round(pl.Problem):
    k: float = 1.0
    dimension: int = 2

    @property
    def domain(self):
        return Ball(["x", "y", "z", "p", "q", "r", "v", "w"][: self.dimension])

    def residual(self, p, u):
        return u.xx + u.yy + 4.0 * self.k

    def reference(self, p):
        return self.k * (1.0 - p.x**2 - p.y**2)
"""


@pytest.mark.parametrize("dimension", [2, 8])
def test_a_domain_that_is_no_box_of_two_coordinates_has_a_report_too(tmp_path, dimension):
    """In a disc the fields are nan outside, and right inside; in eight coordinates, where 101 points in each would be 1e16
    in all, no field is saved."""
    (tmp_path / "round.py").write_text(ROUND)
    text = TINY[: TINY.index('[[method]]\nname = "lora-sgd"')].replace("seeds = [0, 1]", "seeds = [0]")
    text = text.replace('"burgers"', '"round.py"').replace('nu = "0.3/pi"', f"dimension = {dimension}")
    text = text.replace('nu = "0.5/pi"', f"k = 2.0, dimension = {dimension}")
    folder = run(tmp_path / "tiny", text, origin=tmp_path)
    assert report(folder).is_file()
    (about,) = json.loads((folder / "study.json").read_text())["cases"]
    assert about["zero_shot"] > 0 and list(folder.glob("figures/*-error-work.png"))
    saved = [*folder.glob("cases/*.npz"), *folder.glob("runs/*/field.npz")]
    assert len(saved) == (2 if dimension == 2 else 0) == 2 * len(list(folder.glob("figures/*-fields.png")))
    if dimension == 2:
        case, field = (np.load(path) for path in saved)
        x, y = np.meshgrid(case["axis_0"], case["axis_1"], indexing="ij")
        inside = x**2 + y**2 <= 1.0 + 1e-9
        expected = np.where(inside, 2.0 * (1.0 - x**2 - y**2), np.nan)
        np.testing.assert_allclose(case["reference"], expected, rtol=0, atol=1e-14)  # rounding of x^2 + y^2
        for values in (case["zero_shot"], field["prediction"]):
            assert np.array_equal(np.isfinite(values), inside)
        error = np.linalg.norm((case["zero_shot"] - expected)[inside]) / np.linalg.norm(expected[inside])
        assert error == pytest.approx(about["zero_shot"], rel=0.05)  # the grid of errors is another one


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


TWO_CASES = (
    TINY.replace("seeds = [0, 1]", "seeds = [0]").partition("[[method]]")[0]
    + """
[[case]]
problem = "burgers"
base = { nu = "0.3/pi" }
target = { nu = "0.4/pi" }
width = 6
depth = 2
rank = 2
pretrain = { max_steps = 15, points = 150 }
[[method]]
name = "odelora-implicit"
max_steps = 2
"""
)


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
