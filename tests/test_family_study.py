"""A family from its config to its results folder: what is made, what is continued, what is left alone."""

import csv
import hashlib
import inspect
import json
import re
import shutil
import tomllib

import pytest
from pinn_lora.problems.reaction import Reaction

import pinn_lora as pl
from pinn_lora.cli import main
from pinn_lora.config import ConfigError
from pinn_lora.families.config import check_family
from pinn_lora.families.report import family_report
from pinn_lora.families.study import run_family
from pinn_lora.folders import alone

TINY = """
name = "tiny"
title = "Tiny family"
problem = "reaction"
base = { rho = 2.0 }
vary = { rho = { from = 1.5, to = 3.0, count = 3 } }
width = 8
depth = 3
rank = 2
points = 100
max_steps = 8
pretrain = { max_steps = 25, points = 200 }
from_scratch = 2
seeds = [0, 1]
"""


def run(folder, text=TINY, **options):
    config = check_family(tomllib.loads(text), where="tiny.toml")
    return run_family(config, folder, command="pinn-lora family tiny.toml", source=text, progress=False, **options)


def record_of(folder):
    return json.loads((folder / "family_study.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("study") / "tiny")


def test_every_seed_has_a_base_its_members_and_what_it_is_compared_with(finished):
    record = record_of(finished)
    assert record["finished"] and record["command"] == "pinn-lora family tiny.toml"
    assert record["planned"] == {"members": 6, "scratch": 4, "ranks": 0} and record["varied"] == ["rho"]
    assert (finished / "config.toml").read_text() == TINY
    assert {"torch", "deepxde", "pinn_lora", "python"} <= set(record["versions"])
    assert [(row["seed"], row["rho"]) for row in record["scratch"]] == [(0, 1.5), (0, 3.0), (1, 1.5), (1, 3.0)]
    for seed, base_row in zip((0, 1), record["bases"], strict=True):
        place = finished / f"seed-{seed}"
        base = pl.Solution.load(place / "base")
        assert base.problem == Reaction(rho=2.0) and base.settings["seed"] == seed
        assert base_row["relative_l2"] == base.relative_l2() and base_row["seconds"] > 0
        family = pl.Family.load(place / "family", base=base)
        rows = [{k: v for k, v in row.items() if k != "seed"} for row in record["rows"] if row["seed"] == seed]
        assert rows == family.table()
        for member in (family.members[0], family.members[2]):  # the base of so few steps has 1e-2 to 3e-2 itself
            assert member.relative_l2() < member.compare_to_base() / 2
    for row, number in zip(record["scratch"], (1, 3, 1, 3), strict=True):
        made = pl.Solution.load(finished / f"seed-{row['seed']}" / "scratch" / f"{number:03d}")
        assert made.problem == Reaction(rho=row["rho"]) and made.relative_l2() == row["relative_l2"]


def test_a_run_from_scratch_keeps_its_history_and_says_when_it_was_as_accurate_as_the_adapted(finished):
    record, told = record_of(finished), []
    for row, number in zip(record["scratch"], (1, 3, 1, 3), strict=True):
        shape = {"width": 8, "depth": 3, "max_steps": 25, "points": 200}
        again = pl.pretrain(Reaction(rho=row["rho"]), seed=row["seed"], **shape)
        with (finished / f"seed-{row['seed']}" / "scratch" / f"{number:03d}" / "history.csv").open() as file:
            lines = list(csv.DictReader(file))
        kept = [float(line["relative_l2"]) for line in lines]
        assert kept == pytest.approx([r.relative_l2 for r in again.history], rel=1e-6)  # a history has 7 digits
        assert float(lines[-1]["seconds"]) == pytest.approx(row["seconds"], rel=1e-6)
        (adapted,) = [r for r in record["rows"] if (r["seed"], r["rho"]) == (row["seed"], row["rho"])]
        steps = [i for i, r in enumerate(again.history) if r.relative_l2 <= adapted["relative_l2"]]
        assert row["seconds_to_adapted"] == (float(lines[steps[0]]["seconds"]) if steps else "never")
        told.append(len(steps))
    assert any(told), told


def test_a_folder_where_another_process_is_at_work_is_left_alone(finished):
    with alone(finished), pytest.raises(OSError, match=r"another process is at work in .*tiny; nothing was changed"):
        run(finished)


def test_running_again_makes_only_what_is_missing(finished):
    before = record_of(finished)
    stamps = {path: path.stat().st_mtime_ns for path in finished.rglob("pinn_lora.json")}
    lost = [finished / "seed-1" / "scratch" / "003", finished / "seed-0" / "family" / "members" / "003-rho-3"]
    for folder in lost:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    left = finished / "seed-0" / ".partial-killed"
    left.mkdir()
    run(finished)
    after = record_of(finished)
    assert not left.exists()
    changed = {path.parent for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert changed == set(lost)
    for a, b in zip(before["rows"] + before["scratch"], after["rows"] + after["scratch"], strict=True):
        assert a["relative_l2"] == b["relative_l2"], "same seed, same numbers"
    assert after["started"] == before["started"]


def test_a_folder_of_another_family_or_of_something_else_is_left_alone(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"holds a family of another config: max_steps was 8 and is 9; nothing"):
        run(finished, TINY.replace("max_steps = 8", "max_steps = 9"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a results folder; nothing was changed"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_members_of_a_file_that_was_edited_are_not_mixed(tmp_path):
    """Put back, the family goes on; so does one that was begun before the file's hash was kept."""
    file = tmp_path / "mine.py"
    written = inspect.getsource(inspect.getmodule(Reaction))
    file.write_text(written)
    text = TINY.replace('"reaction"', '"mine.py"').replace("seeds = [0, 1]", "seeds = [0]")
    text = text.replace("from_scratch = 2", "").replace("max_steps = 25", "max_steps = 2")
    folder = run(tmp_path / "tiny", text, origin=tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    file.write_text(written + "# another\n")
    with pytest.raises(ConfigError, match=r"^mine\.py was edited since .*tiny was begun.*choose another --out, or put"):
        run(folder, text, origin=tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    file.write_text(written)
    run(folder, text, origin=tmp_path)
    record = record_of(folder)
    assert record.pop("problem_files") == {"mine.py": hashlib.sha256(written.encode()).hexdigest()}
    (folder / "family_study.json").write_text(json.dumps(record))
    file.write_text(written + "# another\n")
    run(folder, text, origin=tmp_path)
    assert record_of(folder)["problem_files"] != {}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rank = 2", "rank = 9", "rank 9 does not fit the 8 x 8 layer"),
        ("rank = 2", 'rank = 2\nnetwork = "pirate"', "there is no network 'pirate'; did you mean 'pirate_net'?"),
        (
            "rank = 2",
            'rank = 2\nmethod = "cayley"\ninitializer = "zero_b"',
            "cayley rotates B and this start's is zero",
        ),
        ("rank = 2", 'rank = 2\ninitializer = "lora_ga"\nranks = [2, 5]', "lora_ga takes 2 r = 10 singular vectors"),
        ("rank = 2", "rank = 2\nranks = [2, 9]", "rank 9 does not fit the 8 x 8 layer"),
        ("rank = 2", 'rank = 2\nmethod = "full-lm"', "keeps one adapter a member, and full-lm trains all weights"),
        (
            "rank = 2",
            "rank = 2\nweights = { initial = 2.0 }",
            "there is no loss term 'initial' to weigh (terms: residual)",
        ),
        ("rank = 2", "rank = 2\nweights = { residual = -1.0 }", "the weight of residual is -1.0; it must be"),
        ("pretrain = {", 'pretrain = { method = "full-lmm",', "there is no pretraining method 'full-lmm'"),
        ("vary", "members = [{ rho = 3.0 }, { rho = 3.0 }] #", "stands twice among the members"),
        ("vary", "from_scratch = 0\nmembers = [{}] #", "no member differs from the base, Reaction(rho=2.0"),
        (
            "vary",
            'from_scratch = 1\nmembers = [{ form = "soft" }] #',
            "the coefficient form varies and is 'ansatz', no finite",
        ),
        ("rank = 2", "rank = 2\nstep_size = inf", "step_size = inf: give a finite number, or leave it out"),
        ("rank = 2", "rank = 2\nmax_seconds = inf", "max_seconds = inf: give a finite number"),
    ],
)
def test_what_cannot_be_solved_is_said_before_anything_is_written(tmp_path, old, new, sentence):
    with pytest.raises(ConfigError) as raised:
        run(
            tmp_path / "new",
            TINY.replace("from_scratch = 2\n" if "from_scratch" in new else "", "").replace(old, new, 1),
        )
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [("base = { rho = 2.0 }", "base = { rho = 1e200 }"), ("vary", "members = [{ rho = 3.0 }, { rho = 1e200 }] #")],
)
def test_a_base_or_member_that_cannot_be_trained_is_one_sentence(tmp_path, old, new):
    text = TINY.replace(old, new, 1)
    with pytest.raises(ConfigError, match=r"the loss of Reaction\(rho=1e\+200.* before the first step") as raised:
        run(tmp_path / "new", text)
    assert "\n" not in str(raised.value) and not (tmp_path / "new").exists()


def test_the_page_needs_nothing_from_outside(finished):
    page = family_report(finished).read_text()
    assert "Tiny family" in page and "zero-shot" in page and "pinn-lora family tiny.toml" in page
    assert not re.search(r"""(src|href)=["']https?:""", page) and 'src="data:image' in page
    for name in ("family.csv", "members.csv", "seeds.csv", "scratch.csv", "figures/error-parameter.png"):
        assert (finished / name).stat().st_size > 100


def test_the_command_writes_the_report_and_mistakes_are_one_sentence(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    calls = {
        ("family", "tiny.toml", "--out", finished, "--quiet"): (0, f"report: {finished}/report.html"),
        ("report", finished): (0, f"report: {finished}/report.html"),
        ("family", "tiny.toml", "--jobs", "0"): (2, "error: command line: jobs = 0"),
        ("family", "none.toml"): (2, "error: there is no config file none.toml"),
    }
    for arguments, (code, sentence) in calls.items():
        monkeypatch.setattr("sys.argv", ["pinn-lora", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == code
        assert sentence in (err if code else out)
        assert len(err.splitlines()) == (1 if code else 0)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"], "nothing else is written"


def test_every_row_says_what_its_reference_may_err_by(finished, tmp_path, monkeypatch):
    """The problem's own word, in the base's row, the members' and those from scratch; of a closed form there is none."""
    rows_of = lambda record: [*record["bases"], *record["rows"], *record["scratch"]]  # noqa: E731
    assert {row["reference_error"] for row in rows_of(record_of(finished))} == {None}
    again = shutil.copytree(finished, tmp_path / "again")
    monkeypatch.setattr(Reaction, "reference_error", lambda self: 1e-9 * self.rho)
    rows = rows_of(record_of(run(again)))
    assert len(rows) == 2 + 6 + 4 and all(row["reference_error"] == 1e-9 * row["rho"] for row in rows)
    family = pl.Family.load(finished / "seed-0" / "family", base=pl.Solution.load(finished / "seed-0" / "base"))
    assert family.base_row()["reference_error"] == 2e-9
