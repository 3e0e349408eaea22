"""Families: what starts from what, accuracy against the true solutions, the same numbers in any number of processes, and
folders that are continued."""

import csv
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.reaction import Reaction

import pinn_lora as pl

RATES = (4.0, 2.5, 1.2, 3.2)  # the base is at 2: 2.5 -> 3.2 -> 4.0, and 1.2
SHORT = {"rank": 3, "points": 200, "max_steps": 12, "train_output": True}


@pytest.fixture(scope="module")
def base():
    return pl.pretrain(Reaction(rho=2.0), width=10, depth=3, max_steps=60, points=400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("family") / "reaction"


@pytest.fixture(scope="module")
def family(base, folder):
    return pl.solve_family(base, [Reaction(rho=r) for r in RATES], folder=folder, **SHORT)


def final(solution):
    return solution.network.state_dict()


def same(a, b):
    a, b = final(a), final(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_member_is_near_its_true_solution(family):
    for member, rate in zip(family.members, RATES, strict=True):
        assert member.problem == Reaction(rho=rate) and member.base is family.base
        # twelve steps end at 7e-4 to 1.1e-2, 20 to 170 times below zero-shot; the base itself has 1e-3
        assert member.relative_l2() < min(2e-2, member.compare_to_base() / 10)


def test_each_starts_from_its_nearest_solved_neighbour(family):
    assert family.parents == (3, None, None, 1)
    for member, parent in zip(family.members, family.parents, strict=True):
        start = family.base if parent is None else family.members[parent]
        assert member.history[0].relative_l2 == pl.Solution(member.problem, start.network).relative_l2()
        assert member.settings.get("start") == (None if parent is None else repr(start.problem))


def test_two_processes_give_the_same_numbers(family, base):
    again = pl.solve_family(base, [Reaction(rho=r) for r in RATES], jobs=2, **SHORT)
    assert again.parents == family.parents
    assert all(same(a, b) for a, b in zip(again.members, family.members, strict=True))
    assert all(a.base is base for a in again.members)


def test_threads_and_the_base_are_as_before(base):
    before, weights = torch.get_num_threads(), {name: value.clone() for name, value in final(base).items()}
    pl.solve_family(base, [Reaction(rho=2.1)], threads=2, rank=1, points=64, max_steps=1)
    assert torch.get_num_threads() == before
    assert all(torch.equal(value, weights[name]) for name, value in final(base).items())


def test_a_family_is_one_adapter_a_member_on_disk(family, folder, base):
    record = json.loads((folder / "family.json").read_text())
    names = [entry["folder"] for entry in record["members"]]
    assert names[0] == "001-rho-4" and sorted(names) == sorted(path.name for path in (folder / "members").iterdir())
    for name, row in zip(names, family.table(), strict=True):
        files = list((folder / "members" / name).iterdir())
        assert "adapter_model.safetensors" in {path.name for path in files}
        assert sum(path.stat().st_size for path in files) == row["bytes"] < 30_000
    again = pl.Family.load(folder, base=base)
    assert again.parents == family.parents
    assert all(same(a, b) for a, b in zip(again.members, family.members, strict=True))
    assert again.table() == family.table(), "seconds, points and status too"


def test_a_saved_family_is_loaded_again(family, base, tmp_path):
    again = pl.Family.load(family.save(tmp_path / "copy"), base=base)
    assert again.table() == family.table()
    with pytest.raises(FileExistsError, match="is not empty; nothing was written"):
        family.save(tmp_path / "copy")
    assert pl.Family.load(again.save(tmp_path / "second"), base=base).table() == family.table()


def test_a_second_call_makes_only_what_is_missing(family, folder, base):
    places = sorted((folder / "members").iterdir())
    stamps = {path: (path / "pinn_lora.json").stat().st_mtime_ns for path in places}
    lost = folder / "members" / "004-rho-3.2"
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()
    (folder / "members" / ".partial-killed").mkdir()
    with pytest.raises(ValueError, match=r"lacks 1 of 4 members, the first is 004-rho-3\.2; solve_family"):
        pl.Family.load(folder, base=base)
    again = pl.solve_family(base, [Reaction(rho=r) for r in RATES], folder=folder, **SHORT)
    assert all(same(a, b) for a, b in zip(again.members, family.members, strict=True))
    assert sorted((folder / "members").iterdir()) == places
    for path, stamp in stamps.items():
        assert ((path / "pinn_lora.json").stat().st_mtime_ns == stamp) == (path != lost)


def test_a_folder_of_another_family_or_of_something_else_is_left_alone(family, folder, base, tmp_path):
    members = [Reaction(rho=r) for r in RATES]
    for changed in ({"seed": 1}, {"points": 201}, {"rank": 2}):
        with pytest.raises(ValueError, match="other members or other options; nothing was changed: choose another"):
            pl.solve_family(base, members, folder=folder, **{**SHORT, **changed})
    with pytest.raises(ValueError, match="other members or other options"):
        pl.solve_family(base, members[:2], folder=folder, **SHORT)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no family"):
        pl.solve_family(base, members, folder=tmp_path, **SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    other = pl.pretrain(Reaction(rho=2.0), width=10, depth=3, max_steps=1, points=64, seed=1)
    with pytest.raises(ValueError, match="was made from another base"):
        pl.Family.load(folder, base=other)
    with pytest.raises(ValueError, match="holds 4 members, and 1 problems are given"):
        pl.Family.load(folder, base=base, problems=members[:1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record: record.pop("base"), "it does not say its base's fingerprint under 'base'"),
        (lambda record: record.pop("members"), "it lists no members under 'members'"),
        (lambda record: record["members"][1].pop("parent"), "its member 2 has not both 'folder' and 'parent'"),
        (
            lambda record: record["members"][1].update(parent=4),
            "its member 2 has the parent 4; it must be null or 0 to 3",
        ),
        (lambda record: record["members"][0].update(parent=-1), "its member 1 has the parent -1; it must be"),
        (lambda record: record["members"][0].update(folder=".."), "its member 1 has the folder '..'"),
        (
            lambda record: record["members"][1].update(parent=0),
            "the parents of its member 1 never lead back to the base",
        ),
    ],
)
def test_a_damaged_record_gets_one_sentence(family, base, tmp_path, change, sentence):
    folder = family.save(tmp_path / "copy")
    record = json.loads((folder / "family.json").read_text())
    change(record)
    (folder / "family.json").write_text(json.dumps(record))
    with pytest.raises(ValueError) as raised:
        pl.Family.load(folder, base=base)
    assert str(raised.value).startswith(f"{folder / 'family.json'} is damaged: {sentence}")
    assert "\n" not in str(raised.value)
    (folder / "family.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="holds no family"):
        pl.Family.load(folder, base=base)


def test_the_table_says_what_the_solutions_say(family, tmp_path):
    rows = family.table()
    for row, member in zip(rows, family.members, strict=True):
        assert row["rho"] == member.problem.rho
        assert (row["relative_l2"], row["zero_shot"]) == (member.relative_l2(), member.compare_to_base())
        assert row["residual"] == member.residual_norms()["residual"] < row["zero_shot_residual"]
        assert (row["status"], row["points"]) == (str(member.status), 200)
        assert row["seconds"] == member.history[-1].seconds > 0
    assert [row["started_from"] for row in rows] == ["rho=3.2", "base", "base", "rho=2.5"]
    with family.write_csv(tmp_path / "family.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["relative_l2"]) for row in read] == [row["relative_l2"] for row in rows]
    assert family.plot(tmp_path / "family.png").stat().st_size > 5000


def test_an_unseen_parameter_is_answered_by_a_few_steps_from_the_nearest(family):
    near = family.nearest(2.8)
    assert near is family.members[1] or near is family.members[3]
    found = family.solve(2.8)
    assert found.settings["start"] == repr(near.problem) and found.history[-1].step <= 20
    unchanged = pl.Solution(found.problem, near.network).relative_l2()
    assert found.relative_l2() < min(1e-2, unchanged / 5)  # 3e-3 and a thirteenth
    points = found.problem.domain.sample(50, seed=1).numpy()
    values = family.predict(2.8, points)
    assert np.array_equal(values, found.predict(points))
    truth = Reaction(rho=2.8).reference_values(torch.from_numpy(points))
    assert np.linalg.norm(values - truth) < 2e-2 * np.linalg.norm(truth)
    assert np.array_equal(family.predict(Reaction(rho=2.8), points), values)
    assert np.array_equal(family.predict({"rho": 2.8}, points), values)
    assert family.solve(4.0) is family.members[0], "a member is its own answer"


def test_the_base_answers_for_itself_and_is_where_what_is_nearest_to_it_starts(family, folder, base):
    assert family.solve(2.0) is base and pl.Family.load(folder, base=base).solve(2.0) is base
    assert family.nearest(2.05) is base and family.nearest(2.3) is family.members[1]
    found = family.solve(2.05)
    assert "start" not in found.settings and found.base is base
    assert found.history[0].relative_l2 == found.compare_to_base(), "fresh factors change nothing"
    assert found.relative_l2() < min(5e-4, found.compare_to_base() / 10)  # 1.4e-4, as the base itself, and a fiftieth
    alone = pl.Family(base, family.members[:1], (None,))
    far = pl.finetune(base, found.problem, start=family.members[0], points=200, max_steps=20)
    assert alone.solve(2.05).relative_l2() < far.relative_l2() / 2  # 1.4e-4 against 4.6e-4


@pytest.mark.parametrize("train_biases", [False, True])
@pytest.mark.parametrize("train_output", [False, True])
@pytest.mark.parametrize("rank", [2, {"layers.1": 3}])
def test_what_starts_from_the_base_trains_what_the_members_do(base, rank, train_biases, train_output):
    options = {"rank": rank, "train_biases": train_biases, "train_output": train_output, "points": 64, "max_steps": 1}
    family = pl.solve_family(base, [Reaction(rho=3.0)], **options)
    found = family.solve(2.1, max_steps=1)
    assert family.nearest(2.1) is base and found.settings["points"] == 64
    trained = lambda solution: {key: p.shape for key, p in solution.network.named_parameters()}  # noqa: E731
    assert trained(found) == trained(family.members[0])


@dataclass(frozen=True)
class Loud(Reaction):
    """The same equation with its residual `gain` times as large: a step of plain descent has a limit of 1 / gain^2."""

    gain: float = 1.0

    def residual(self, p, u):
        return self.gain * super().residual(p, u)


def test_a_member_that_diverged_is_kept_and_is_no_start(base):
    loud = replace(base, problem=Loud(rho=2.0))
    members = [Loud(rho=2.2), Loud(rho=2.4, gain=1e4), Loud(rho=2.6, gain=1.5)]
    distance = lambda a, b: abs(a.rho - b.rho)  # noqa: E731
    options = {"method": "lora-sgd", "step_size": 1e-3, "points": 100, "max_steps": 20, "distance": distance}
    family = pl.solve_family(loud, members, rank=2, **options)
    assert [member.status for member in family.members] == ["COMPLETED", "DIVERGED", "COMPLETED"]
    assert family.parents == (None, 0, 0), "the second's child starts from the first"
    assert family.members[2].settings["start"] == repr(members[0])
    assert family.table()[1]["status"] == "DIVERGED"
    assert family.nearest(Loud(rho=2.45)) is family.members[2]
    broken = pl.solve_family(loud, members[1:2], rank=2, **options)
    assert broken.nearest(members[0]) is loud, "where every member diverged there is still the base"
    assert broken.solve(members[1], method="lora-adam", max_steps=1).settings["points"] == 100


def test_points_are_a_rule_or_a_number(base):
    def points(members, **options):
        family = pl.solve_family(base, members, rank=1, max_steps=1, **options)
        return [member.settings["points"] for member in family.members]

    members = [Reaction(rho=2.1), Reaction(rho=2.2)]
    assert points(members, points=64) == [64, 64]
    assert points(members, points=lambda problem: round(100 * problem.rho)) == [210, 220]


def test_thin_layers_get_more_points_by_default(base):
    @dataclass(frozen=True)
    class Thin(Reaction):
        @property
        def layer_width(self):
            return 1.0 / self.rho

    family = pl.solve_family(replace(base, problem=Thin(rho=2.0)), [Thin(rho=3.0), Thin(rho=1.0)], rank=1, max_steps=1)
    assert [member.settings["points"] for member in family.members] == [4500, 3000]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"members": []}, "solve_family was given no members"),
        ({"members": [Reaction(rho=3.0), Reaction(rho=3.0)]}, r"Reaction\(rho=3.0.* stands twice among the members"),
        ({"members": [Burgers()]}, "a family is of one class, and here are Reaction and Burgers"),
        ({"method": "full-lm"}, "keeps one adapter a member, and full-lm trains all weights"),
        ({"method": "od-lora"}, "od-lora makes its own factors, so no member can start from another's"),
        ({"points": 0}, "0 points are to be taken for Reaction"),
        ({"points": 2.5}, "points is 2.5; give a whole number"),
        ({"rank": 2.0}, "rank is 2.0; give a whole number"),
        ({"rank": 11}, "rank 11 does not fit the 10 x 10 layer"),
        ({"weights": {"initial": 2.0}}, r"there is no loss term 'initial' to weigh \(terms: residual\)"),
        ({"members": Reaction(rho=3.0)}, r"members is Reaction\(rho=3.0.*\); give a list of problems"),
        ({"members": [3.0]}, "3.0 stands among the members and is no Problem; give problems of the base's class"),
        ({"base": Reaction(rho=2.0)}, r"base is Reaction\(rho=2.0.*\); give a Solution, as pretrain returns it"),
        ({"distance": 3}, "distance is 3; give a function of two problems"),
        ({"distance": lambda a, b: None}, r"the distance from Reaction\(.* is None; it must be a finite number"),
        ({"jobs": 0}, "jobs is 0; it must be a whole number, at least 1"),
        ({"method": "lora-admm"}, "there is no method"),
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_written(base, tmp_path, arguments, sentence):
    given = {"base": base, "members": [Reaction(rho=3.0)], "max_steps": 1, **arguments}
    with pytest.raises(ValueError, match=sentence) as raised:
        pl.solve_family(given.pop("base"), given.pop("members"), folder=tmp_path / "new", **given)
    assert "\n" not in str(raised.value) and not (tmp_path / "new").exists()


def test_numbers_of_numpy_are_numbers(base, tmp_path):
    """The same family, and the same folder, as with Python's."""
    options = {"weights": {"residual": 2.0}, "step_size": 0.5, "folder": tmp_path / "one"}
    plain = pl.solve_family(base, [Reaction(rho=2.5)], rank=2, max_steps=2, points=64, seed=3, **options)
    options |= {"weights": {"residual": np.float32(2.0)}, "step_size": np.float32(0.5)}
    whole = {"rank": np.int64(2), "max_steps": np.int32(2), "points": np.int64(64), "seed": np.int64(3)}
    again = pl.solve_family(base, [Reaction(rho=np.float32(2.5))], **whole, **options)
    assert same(plain.members[0], again.members[0])
    made = pl.solve_family(base, [Reaction(rho=np.float32(2.5))], **whole, **{**options, "folder": tmp_path / "two"})
    assert same(plain.members[0], made.members[0])
    found = made.solve(np.float32(2.25), max_steps=np.int64(1))
    assert found.problem == Reaction(rho=2.25) and type(found.problem.rho) is float


def test_without_a_reference_residuals_are_told(base):
    @dataclass(frozen=True)
    class Unknown(Reaction):
        reference = pl.Problem.reference

    family = pl.solve_family(
        replace(base, problem=Unknown(rho=2.0)), [Unknown(rho=2.3)], rank=2, max_steps=5, points=100
    )
    (row,) = family.table()
    assert row["relative_l2"] is None and row["zero_shot"] is None
    assert 0 < row["residual"] < row["zero_shot_residual"] and not math.isnan(row["residual"])
