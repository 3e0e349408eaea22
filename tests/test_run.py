"""`make bench`: every benchmark is run, one after another, and those that fail are named at the end."""

import shutil
import subprocess
import sys

import pytest
from benchmark import FOLDER, load

bench = load("run")


@pytest.fixture
def scripts(tmp_path):
    """Three in place of the benchmarks, the second of which fails, and a page that notes what it finds."""
    for name, code in {"one": "", "two": "raise SystemExit(3)", "three": "", "page": ""}.items():
        text = (
            f"from pathlib import Path\nlog = Path(__file__).parent / 'log'\nlog.open('a').write('{name} ')\n{code}\n"
        )
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_one_that_fails_does_not_stop_the_others(scripts):
    assert bench.run(["one", "two", "three"], scripts) == ["two"]
    assert (scripts / "log").read_text() == "one two three page "


def test_failures_are_named_at_the_end(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(bench, "run", lambda names: asked.extend(names) or ["steps", "page"])
    with pytest.raises(SystemExit) as ended:
        bench.main(["steps", "scaling"])
    assert ended.value.code == "failed: steps, page" and asked == ["steps", "scaling"]  # a message: exit code 1
    assert "not run unless named: problems" in capsys.readouterr().out


def test_without_names_all_that_take_minutes_are_run(monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "run", lambda names: asked.extend(names) or [])
    bench.main([])
    assert tuple(asked) == bench.MINUTES


def test_an_unknown_name_is_one_sentence_and_nothing_is_run(monkeypatch, capsys):
    monkeypatch.setattr(bench, "run", lambda names: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as ended:
        bench.main(["steps", "skaling"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "there is no benchmark 'skaling'; did you mean 'scaling'?" in said


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_bench_installs_the_extra_and_hands_the_names_on(tmp_path):
    """What make would do, in an environment that is not there yet; and `make help` has its line."""
    make = ["make", "--no-print-directory", f"VENV={tmp_path / 'env'}", f"PYTHON={sys.executable}"]
    tell = lambda *more: subprocess.run([*make, *more], cwd=FOLDER.parent, capture_output=True, text=True).stdout  # noqa: E731
    commands = tell("-n", "bench", "BENCH=derivatives steps")
    assert "-e '.[bench]'" in commands and "benchmarks/run.py derivatives steps" in commands
    assert "make bench" in tell("help")
