"""What a study's folder may be continued with, and the sentence for what it may not."""

import json
import shutil
import tomllib

import pytest
from tiny_study import TINY, run, runs_of

from pinn_lora.config import ConfigError, check_config
from pinn_lora.continuing import changed, meaning

BEGUN = """
name = "x"
title = "X"
seeds = [0, 1]
[[case]]
problem = "burgers"
base = { nu = "0.1/pi" }
target = { nu = 0.05 }
[[case]]
problem = "burgers"
base = { nu = "0.1/pi" }
target = { nu = 0.06 }
rank = 2
[[method]]
name = "lora-adam"
step_sizes = [1e-2, 1e-3]
cases = [1]
[[method]]
name = "full-lm"
[[method]]
name = "odelora-euler"
starts = ["zero_b"]
"""
MORE_CASES = '[[case]]\nproblem = "burgers"\nbase = {}\ntarget = { nu = 0.07 }\n[[method]]\nname = "lora-adam"'


def change(text):
    held, given = (meaning(check_config(tomllib.loads(config), where="x")) for config in (BEGUN, text))
    return changed(held, given)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ('title = "X"', 'title = "Y"\ndescription = "More."\ncomparison = false\njobs = 2'),
        ("seeds = [0, 1]", "seeds = [0, 1, 7]"),
        ("[1e-2, 1e-3]", "[1e-1, 1e-2, 1e-3]"),
        ("[1e-2, 1e-3]", "[1e-3, 1e-2]"),
        ("cases = [1]", "cases = [2, 1]"),
        ("cases = [1]\n", ""),
        ('starts = ["zero_b"]', 'starts = ["balanced", "zero_b"]'),
        ("cases = [1]", 'cases = [1]\nstarts = ["balanced", "zero_b"]'),  # its default and another
        ('[[method]]\nname = "lora-adam"', MORE_CASES),
        ('[[method]]\nname = "full-lm"', '[[method]]\nname = "lora-lm"\n[[method]]\nname = "full-lm"'),
        ('name = "full-lm"', 'name = "full-lm"\nstep_sizes = [1.0, 2.0]'),  # its default and another
        ('name = "full-lm"', 'name = "full-lm"\ntrains = "all weights"'),  # as it does anyway
    ],
)
def test_a_study_may_be_told_otherwise_and_may_grow(old, new):
    assert change(BEGUN.replace(old, new, 1)) is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "x"', 'name = "y"', "name was 'x' and is 'y'"),
        ("seeds = [0, 1]", "seeds = [0]", "seeds was [0, 1] and is [0]"),
        ("seeds = [0, 1]", "seeds = [1, 0]", "the first of seeds was 0 and is 1"),
        ("seeds = [0, 1]", "seeds = [0, 1]\nthreads = 2", "threads was 1 and is 2"),
        ("seeds = [0, 1]", 'seeds = [0, 1]\ndtype = "float32"', "dtype was 'float64' and is 'float32'"),
        ("seeds = [0, 1]", "seeds = [0, 1]\npoints = 100", "points was 3000 and is 100"),
        ("rank = 2", "rank = 3", "case 2, rank was 2 and is 3"),
        ("rank = 2", "rank = 2\nfull_scan = false", "case 2, full_scan was True and is False"),
        ("nu = 0.05", "nu = 0.04", "case 1, target was {'nu': 0.05} and is {'nu': 0.04}"),
        ("[1e-2, 1e-3]", "[1e-2]", "case 1, lora-adam, step_sizes was [0.01, 0.001] and is [0.01]"),
        (
            "step_sizes = [1e-2, 1e-3]",
            "max_steps = 5\nstep_sizes = [1e-2, 1e-3]",
            "lora-adam, max_steps was None and is 5",
        ),
        ("cases = [1]", "cases = [2]", "methods was ['lora-adam', 'full-lm', 'odelora-euler'] and is ['full-lm', "),
        ('name = "full-lm"', 'name = "full-lm"\nstep_sizes = [2.0]', "full-lm, step_sizes was [1.0] and is [2.0]"),
        ('starts = ["zero_b"]', 'starts = ["balanced"]', "odelora-euler, starts was ['zero_b'] and is ['balanced']"),
    ],
)
def test_what_would_change_a_finished_run_is_named_with_both_values(old, new, told):
    said = change(BEGUN.replace(old, new, 1))
    assert said is not None and told in said


def test_a_case_that_is_taken_away_is_named():
    fewer = BEGUN[: BEGUN.rindex("[[case]]")] + BEGUN[BEGUN.index("[[method]]") :]
    assert change(fewer) == "cases was [1, 2] and is [1]"


def test_a_study_that_has_grown_keeps_its_runs_and_makes_the_others(tmp_path):
    folder = run(tmp_path / "tiny")
    before, kept = runs_of(folder), {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/run.json")}
    more = TINY.replace('title = "Tiny"', 'title = "Grown"\njobs = 2').replace("seeds = [0, 1]", "seeds = [0, 1, 2]")
    more = more.replace("[1e-3, 1e3]", "[1e-3, 1e-2, 1e3]") + '[[method]]\nname = "lora-adam"\nmax_steps = 3\n'
    run(folder, more)
    after, study = runs_of(folder), json.loads((folder / "study.json").read_text())
    assert all(after[name] == told for name, told in before.items())
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert len(after) == study["planned"] == 3 * (1 + 3 + 1 + 1) and study["finished"]
    assert (study["title"], study["seeds"], study["config"]["jobs"]) == ("Grown", [0, 1, 2], 2)
    assert (folder / "config.toml").read_text() == more
    shutil.copytree(folder, again := tmp_path / "again")
    with pytest.raises(
        ConfigError, match=r"another config: seeds was \[0, 1, 2\] and is \[0, 1\]; nothing was changed"
    ):
        run(again)
    assert (again / "config.toml").read_text() == more


def test_a_finer_grid_may_tune_to_another_step_size(tmp_path):
    """Then what was run at the old one is no part of the plan any more; the study has ended when the planned runs have."""
    text = TINY.replace("rank = 2", "rank = 2\nfull_scan = false").replace("[1e-3, 1e3]", "[1e-9, 1e-8]")
    folder = run(tmp_path / "tiny", text)
    before = set(runs_of(folder))
    run(folder, text.replace("[1e-9, 1e-8]", "[1e-9, 1e-8, 1e-3]"))
    new = {name.split("--", 1)[1] for name in set(runs_of(folder)) - before}
    assert new == {f"lora-sgd--zero_b--h0.001--seed{seed}" for seed in (0, 1)}
    study = json.loads((folder / "study.json").read_text())
    assert study["finished"] and study["planned"] == len(runs_of(folder)) - 1
