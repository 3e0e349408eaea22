"""The command line as a user meets it: the smoke study end to end, the list, help, and one sentence for a mistake."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pinn_lora.configs import configs_folder
from pinn_lora.presets import PRESETS

SMOKE = configs_folder() / "smoke.toml"
COMMAND = [sys.executable, "-c", "from pinn_lora.cli import main; main()"]


def pinn_lora(*arguments, cwd=None):
    call = [*COMMAND, *(str(argument) for argument in arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, cwd=cwd)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "smoke"
    done = pinn_lora("run", SMOKE, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_run_makes_every_run_and_the_report(smoke):
    folder, done = smoke
    assert f"report: {folder}/report.html" in done.stdout
    assert "loss" in done.stderr and "step size" in done.stderr, "the bar shows loss and step size"
    assert len(list(folder.glob("runs/*/run.json"))) == 2 + 2 * 2 + 1 + 1
    page = (folder / "report.html").read_text()
    assert "not the comparison" in page.lower() and "odelora-implicit" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)
    study = json.loads((folder / "study.json").read_text())
    assert study["command"].startswith("pinn-lora run ") and study["command"] in page
    for name in ("runs.csv", "summary.csv", "steps.csv", "effects.csv"):
        assert len((folder / name).read_text().splitlines()) > 1


def test_report_alone_gives_the_same_page(smoke):
    folder, _ = smoke
    before = (folder / "report.html").read_bytes()
    assert pinn_lora("report", folder).returncode == 0
    assert (folder / "report.html").read_bytes() == before


def test_list_names_every_preset():
    listed = pinn_lora("list")
    assert listed.returncode == 0
    for name, preset in PRESETS.items():
        end = " (reconstructed)" if preset.reconstructed else ""
        assert re.search(rf"^  {name} +{re.escape(preset.description + end)}$", listed.stdout, re.M)
    for name in ("burgers", "balanced", "rosenbrock_euler", "lbfgs", "zero_b", "identity"):
        assert re.search(rf"^  {name} +\S", listed.stdout, re.M)


@pytest.mark.parametrize("command", [[], ["run"], ["report"], ["list"]])
def test_help(command):
    shown = pinn_lora(*command, "--help")
    assert shown.returncode == 0 and "Usage" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "none.toml"], "there is no config file none.toml"),
        (["run", SMOKE, "--dtype", "float16"], "should be 'float32' or 'float64'"),
        (["run", SMOKE, "--device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
        (["run", SMOKE, "--jobs", "0"], "jobs = 0"),
        (["report", "."], "study.json"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, tmp_path):
    done = pinn_lora(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.slow
def test_interrupted_study_keeps_finished_runs_and_goes_on(tmp_path):
    folder = tmp_path / "smoke"
    call = [*COMMAND, "run", str(SMOKE), "--out", str(folder)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/run.json")}
    assert process.returncode == 130 and "finished runs are kept" in stderr and "Traceback" not in stderr
    assert 1 <= len(kept) < 8
    assert pinn_lora("run", SMOKE, "--out", folder, "--quiet").returncode == 0
    assert len(list(folder.glob("runs/*/run.json"))) == 8
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "what was finished is not run again"
    assert not [path for path in Path(folder).rglob(".partial*")]
