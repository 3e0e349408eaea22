"""The command line as a user meets it: the smoke study end to end, the list, help, and one sentence for a mistake.

What ends a process has a process of its own; the rest runs in this one, as starting one costs more than what is tested."""

import errno
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pinn_lora as pl
from pinn_lora.configs import configs_folder
from pinn_lora.presets import PRESETS

SMOKE = configs_folder() / "smoke.toml"
RUNS = 2 + 2 * 2 + 3  # step sizes of odelora-implicit, with starts of odelora-euler, and three methods
# Where the tests run in the background of a shell, their children ignore SIGINT unless they ask for it again.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pinn_lora.cli import main
main()
"""
COMMAND = [sys.executable, "-c", SCRIPT]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The smoke study, interrupted after its first run: its folder, the runs' times, the exit code and what was said."""
    folder = tmp_path_factory.mktemp("cli") / "smoke"
    call = [*COMMAND, "run", SMOKE, "--out", folder]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not list(folder.glob("runs/[!.]*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("runs/[!.]*/run.json")}
    return folder, kept, process.returncode, stderr


@pytest.fixture(scope="module")
def smoke(interrupted):
    """The same study, continued to its end."""
    folder = interrupted[0]
    done = subprocess.run([*COMMAND, "run", SMOKE, "--out", folder], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_run_makes_every_run_and_the_report(smoke):
    folder, done = smoke
    assert f"report: {folder}/report.html" in done.stdout
    assert "loss" in done.stderr and "step size" in done.stderr, "the bar shows loss and step size"
    assert len(list(folder.glob("runs/*/run.json"))) == RUNS
    page = (folder / "report.html").read_text()
    assert "not the comparison" in page.lower() and "odelora-implicit" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)
    study = json.loads((folder / "study.json").read_text())
    assert study["command"].startswith("pinn-lora run ") and study["command"] in page
    for name in ("runs.csv", "summary.csv", "steps.csv", "effects.csv"):
        assert len((folder / name).read_text().splitlines()) > 1


def test_report_alone_gives_the_same_page(smoke, command):
    folder, _ = smoke
    before = (folder / "report.html").read_bytes()
    assert command("report", folder)[0] == 0
    assert (folder / "report.html").read_bytes() == before


def test_list_names_every_preset(command):
    code, out, _ = command("list")
    assert code == 0
    for name, preset in PRESETS.items():
        end = " (reconstructed)" if preset.reconstructed else ""
        assert re.search(rf"^  {name} +{re.escape(preset.description + end)}$", out, re.M)
    for name in ("burgers", "balanced", "rosenbrock_euler", "lbfgs", "zero_b", "identity"):
        assert re.search(rf"^  {name} +\S", out, re.M)


def test_it_says_its_version(command):
    assert command("--version") == (0, f"pinn-lora {pl.__version__}\n", "")


@pytest.mark.parametrize("asked", [[], ["run"], ["report"], ["list"]])
def test_help(command, asked):
    code, out, _ = command(*asked, "--help")
    assert code == 0 and "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "none.toml"], "there is no config file none.toml"),
        (["run", SMOKE, "--dtype", "float16"], "dtype = 'float16': it must be 'float32' or 'float64'"),
        (["run", SMOKE, "--seed", "0", "--seed", "abc"], "--seed is 'abc'; give a whole number"),
        (["run", SMOKE, "--case", "1.5"], "--case is '1.5'; give a whole number"),
        (["run", SMOKE, "--jobs", "two"], "--jobs is 'two'; give a whole number"),
        (["run", "."], ". is a folder; give a TOML file"),
        (["family", configs_folder() / "burgers_family.toml", "--jobs", "two"], "--jobs is 'two'; give a whole number"),
        (["check", "burgers", "--tolerance", "abc"], "--tolerance is 'abc'; give a number"),
        (["run", SMOKE, "--device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
        (["run", SMOKE, "--jobs", "0"], "jobs = 0"),
        (["report", "."], "study.json"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_2(command, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert code == 2 and not out
    assert err.startswith("error: ") and sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    "arguments",
    [["run", SMOKE, "--quiet", "--out", "file/out"], ["new-problem", "mine", "--folder", "closed"]],
    ids=["run", "new-problem"],
)
def test_a_folder_that_cannot_be_written_is_one_sentence(command, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir()
    opened = Path.open

    def refuse(path, mode="r", **options):  # what is allowed depends on who runs the tests
        if path.parent.name == "closed" and mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    code, out, err = command(*arguments)
    assert code == 2 and not out
    assert re.fullmatch(r"error: file/out\S*: Not a directory\n|error: closed/mine\.py: Permission denied\n", err)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["closed", "file"]


def test_a_coefficient_of_the_command_line_that_is_no_number_is_named(command):
    code, out, err = command("check", "burgers", "--set", "nu=abc")
    assert (code, out) == (2, "")
    assert err == """error: burgers: nu is 'abc'; give a number, or one like "0.01/pi"\n"""


@pytest.mark.slow
def test_interrupted_study_keeps_finished_runs_and_goes_on(interrupted, smoke):
    folder, kept, code, stderr = interrupted
    assert code == 130 and "finished runs are kept" in stderr and "Traceback" not in stderr
    assert 1 <= len(kept) < RUNS
    assert len(list(folder.glob("runs/*/run.json"))) == RUNS
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "what was finished is not run again"
    assert not list(folder.rglob(".partial*"))
