"""The page docs/own-problem.md from blank file to report: its files, what the check prints, its study and its Python."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from pinn_lora.cli import main
from pinn_lora.config import load_config
from pinn_lora.new_problem import new_problem
from pinn_lora.plan import plan_cases, plan_jobs

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "own-problem.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(fisher\.\w+)`\n```\w+\n(.*?)^```$", PAGE, flags=re.S | re.M))
PYTHON = re.search(r"## In Python.*?```python\n(.*?)```", PAGE, flags=re.S)[1]
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def checked(monkeypatch, capsys) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["pinn-lora", "check", "fisher.py"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().out


def test_the_page_shows_both_files():
    assert sorted(FILES) == ["fisher.py", "fisher.toml"]


def test_the_check_prints_what_the_page_says(folder, monkeypatch, capsys):
    code, out = checked(monkeypatch, capsys)
    shown = re.search(r"```\n(fisher\.py: .*?)```", PAGE, flags=re.S)[1]
    errors = r"(agree to|leaves|meets it to) " + NUMBER  # the last digits depend on the machine
    assert code == 0 and re.sub(errors, r"\1 #", out) == re.sub(errors, r"\1 #", shown)


def test_the_mistake_of_the_page_is_found_in_its_words(folder, monkeypatch, capsys):
    wrong = FILES["fisher.py"].replace("- self.D * u.xx", "+ self.D * u.xx")
    assert wrong != FILES["fisher.py"]
    (folder / "fisher.py").write_text(wrong)
    code, out = checked(monkeypatch, capsys)
    (shown,) = re.findall(r"^  WRONG .*$", PAGE, flags=re.M)
    (line,) = [line for line in out.splitlines() if "WRONG" in line]
    certain = "certain to " + NUMBER
    assert code == 1 and re.sub(certain, "", line) == re.sub(certain, "", shown)


def test_the_files_of_the_page_are_those_that_are_written_for_a_start(folder, tmp_path):
    (tmp_path / "new").mkdir()
    problem, study = new_problem("fisher", tmp_path / "new")
    mine, written = tomllib.loads(FILES["fisher.toml"]), tomllib.loads(study.read_text())
    assert written.pop("description") and mine == written
    written_code = {line.split("  #")[0].strip() for line in problem.read_text().splitlines()}
    assert {line.strip() for line in FILES["fisher.py"].splitlines() if '"""' not in line} <= written_code


def test_the_study_of_the_page_can_be_run(folder):
    config = load_config(folder / "fisher.toml")
    jobs = plan_jobs(config, plan_cases(config, origin=folder))
    assert len(jobs) == 3 and jobs[0].case.target.D == 0.01


def test_the_python_of_the_page_adapts_the_front(folder, capsys):
    """With a third of its steps and of its points: still below 3 %, where the unchanged base is off by 11 %."""
    short = PYTHON.replace("max_steps=80", "max_steps=25").replace("points=800", "points=300")
    assert short.count("max_steps=25") == short.count("points=300") == 2
    names = {}
    try:
        exec(compile(short, "page", "exec"), names)
    finally:
        sys.modules.pop("fisher", None)
    tuned, again = names["tuned"], names["again"]
    assert tuned.relative_l2() < 0.03 < 0.08 < tuned.compare_to_base()
    assert again.relative_l2() == pytest.approx(tuned.relative_l2()) and again.problem == tuned.problem
    assert (folder / "fisher.png").is_file() and capsys.readouterr().out
