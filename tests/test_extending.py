"""The contributor's path of docs/extending.md: its files, dropped into a copy of the checkout, are listed, tested and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = (CHECKOUT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`(pinn_lora/\S+\.py)`\n```python\n(.*?)^```$", PAGE, flags=re.S | re.M))
WITHOUT_A_TABLEAU = (
    "pinn_lora/integrators/two_eulers.py",
    """\"\"\"Two steps of Euler.\"\"\"

from dataclasses import dataclass

from pinn_lora.integrators import Integrator, Step


@dataclass(frozen=True)
class TwoEulers(Integrator):
    \"\"\"Two steps of Euler: as the page's last words on integrators say, with step, order and gradients.\"\"\"

    order = 1

    @property
    def gradients(self):
        return 2

    def step(self, flow, theta, h):
        value, first = flow.velocity(theta)
        half = theta + 0.5 * h * first
        return Step(half + 0.5 * h * flow.velocity(half)[1], True, h, value)
""",
)
METHOD = re.search(r"```toml\n(.*?)```", PAGE, flags=re.S)[1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pinn_lora", "problems", "configs", "tests"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    for path, text in [*FILES.items(), WITHOUT_A_TABLEAU]:
        (folder / path).write_text(text)
    return folder


def python(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cli(*arguments: str, cwd: Path) -> str:
    script = "import sys; sys.argv = ['pinn-lora', *sys.argv[1:]]; from pinn_lora.cli import main; main()"
    return python("-c", script, *arguments, cwd=cwd)


def test_the_page_shows_two_files_of_under_forty_lines():
    assert sorted(FILES) == ["pinn_lora/integrators/ralston.py", "pinn_lora/lifts/jacobi.py"]
    assert all(len(text.splitlines()) < 40 for text in FILES.values())


def test_they_are_listed(copy):
    listed = cli("list", cwd=copy)
    assert "jacobi" in listed and "ScaledGD with the diagonals of its Gram matrices alone." in listed
    assert "ralston" in listed and "the two-stage method of least error." in listed


@pytest.mark.slow
def test_they_are_tested(copy):
    lifts, integrators = "tests/test_lifts.py", "tests/test_integrators.py"
    names = "jacobi or ralston or two_eulers"
    said = python("-m", "pytest", "-v", lifts, integrators, "-k", names, "-p", "no:cacheprovider", cwd=copy)
    for file, name in ((lifts, "jacobi"), (integrators, "ralston"), (integrators, "two_eulers")):
        assert len(re.findall(rf"^{file}::\S*{name}\S* PASSED", said, flags=re.M)) >= 5


@pytest.mark.slow
def test_they_run_from_a_config(copy):
    smoke = (CHECKOUT / "configs" / "smoke.toml").read_text()
    config = copy / "configs" / "mine.toml"
    config.write_text(smoke[: smoke.index("[[method]]")] + METHOD)
    cli("run", str(config), "--out", str(copy / "out"), "--quiet", cwd=copy)
    runs = [json.loads(path.read_text()) for path in (copy / "out" / "runs").glob("*/run.json")]
    assert len(runs) == 2
    assert all(run["lift"] == "jacobi" and run["integrator"] == "ralston" for run in runs)
    assert {run["status"] for run in runs} <= {"COMPLETED", "DIVERGED"}
    assert "jacobi-ralston" in (copy / "out" / "report.html").read_text()
