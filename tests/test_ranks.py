"""Members straight from the base at several ranks: what is planned, made, kept when interrupted, and made no second time."""

import json
import math
import shutil
import tomllib

import pytest
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.reaction import Reaction

import pinn_lora as pl
from pinn_lora.config import ConfigError
from pinn_lora.families import ranks
from pinn_lora.families.config import check_family
from pinn_lora.families.report import family_report
from pinn_lora.families.study import run_family

TINY = """
name = "tiny"
title = "Tiny family"
problem = "reaction"
base = { rho = 2.0 }
members = [{ rho = 3.0 }, { rho = 2.5 }]
width = 8
depth = 3
rank = 2
points = 100
max_steps = 6
pretrain = { max_steps = 25, points = 200 }
ranks = [3, 1]
seeds = [4, 5]
"""


def config(text=TINY):
    return check_family(tomllib.loads(text), where="tiny.toml")


def run(folder, text=TINY):
    return run_family(config(text), folder, command="pinn-lora family tiny.toml", source=text, progress=False)


def record_of(folder):
    return json.loads((folder / "family_study.json").read_text())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A study that was ended in its third run, with the record and the page it left behind."""
    folder = tmp_path_factory.mktemp("study") / "tiny"
    taken = []

    def ended(*arguments, **options):
        taken.append(options["rank"])
        if len(taken) == 3:
            raise KeyboardInterrupt
        return pl.finetune(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranks, "finetune", ended)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("seed-4/ranks/*/pinn_lora.json")}
    return folder, kept, record_of(folder), family_report(folder).read_text()


@pytest.fixture(scope="module")
def finished(interrupted):
    return run(interrupted[0])


def test_what_was_finished_is_kept_and_the_page_says_what_is_missing(interrupted, finished):
    folder, kept, record, page = interrupted
    assert {path.parent.name for path in kept} == {"002-rank-1", "002-rank-3"}, "the nearest member first"
    assert record["finished"] is None and "0 of 4 adapted at the ranks tried" in page
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert not list(folder.glob("seed-4/ranks/.partial-*"))
    assert len(record_of(finished)["ranks"]) == 4


def test_a_row_is_a_fine_tuning_from_the_base_at_that_rank(finished):
    base = pl.Solution.load(finished / "seed-4" / "base")
    rows = record_of(finished)["ranks"]
    assert [(row["seed"], row["rho"], row["rank"]) for row in rows] == [
        (4, 2.5, 1),
        (4, 2.5, 3),
        (4, 3.0, 1),
        (4, 3.0, 3),
    ]
    for row in rows[1::2]:
        made = pl.finetune(base, Reaction(rho=row["rho"]), rank=row["rank"], points=100, max_steps=6, seed=4)
        assert (row["relative_l2"], row["zero_shot"]) == (made.relative_l2(), made.compare_to_base())
        assert row["reference_error"] is None  # it has a closed form
        assert row["unknowns"] == 2 * row["rank"] * (8 + 8) and row["status"] == str(made.status)
        assert row["distance"] == pytest.approx(math.log(row["rho"] / 2.0), rel=1e-15)


def test_a_row_says_what_its_reference_may_err_by(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(Reaction, "reference_error", lambda self: 1e-9 * self.rho)
    rows = record_of(run(shutil.copytree(finished, tmp_path / "again")))["ranks"]
    assert len(rows) == 4 and all(row["reference_error"] == 1e-9 * row["rho"] for row in rows)


def test_the_page_shows_them_as_table_and_figure(finished):
    page = family_report(finished).read_text()
    assert (
        "<h2>Rank against distance</h2>" in page and "Straight from the base, " in page and "not finished" not in page
    )
    for name in ("ranks.csv", "rank_runs.csv", "figures/rank-distance.png"):
        assert (finished / name).stat().st_size > 100
    assert len((finished / "rank_runs.csv").read_text().splitlines()) == 5


BURGERS = """
name = "x"
title = "X"
problem = "burgers"
base = { nu = 0.01 }
members = [{ nu = 0.04 }, { nu = 0.01 }, { nu = 0.005 }]
seeds = [0, 1]
ranks = [2]
"""


def planned(tmp_path, text):
    found = config(text)
    base, members = found.problems()
    return ranks.plan_ranks(found, base, members, tmp_path)


def test_the_plan_has_the_familys_points_and_distance_and_leaves_the_base_out(tmp_path):
    runs = planned(tmp_path, BURGERS)
    assert [run.member.nu for run in runs] == [0.005, 0.04]
    assert [run.distance for run in runs] == pytest.approx([math.log(2), math.log(4)], rel=1e-14)
    assert [run.points for run in runs] == [6000, 3000], "3,000 times base over member, where that is above one"
    assert {run.seed for run in runs} == {0} and len({run.place for run in runs}) == 2


def test_members_and_seeds_may_be_chosen(tmp_path):
    runs = planned(tmp_path, BURGERS + "rank_members = [{ nu = 0.08 }]\nrank_seeds = [1, 0]\n")
    assert [(run.member, run.seed) for run in runs] == [(Burgers(nu=0.08), 1), (Burgers(nu=0.08), 0)]
    assert planned(tmp_path, BURGERS.replace("ranks = [2]", "")) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("rank_members = [{ nu = 0.01 }]", "rank_members: Burgers(nu=0.01, form='ansatz') is the base itself"),
        ("rank_members = [{ nu = 0.1 }, { nu = 0.1 }]", "stands twice; leave it out"),
        ('rank_members = [{ form = "soft" }]', "rank_members vary form, and the family varies nu"),
    ],
)
def test_rank_members_that_do_not_fit_get_one_sentence(tmp_path, given, sentence):
    with pytest.raises(ConfigError) as raised:
        planned(tmp_path, BURGERS + given)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
