"""Studies end to end: the results folder, resuming, refusing foreign folders, runs that fail."""

import csv
import json
import math
import shutil
import tomllib

import numpy as np
import pytest
from pinn_lora.problems.burgers import Burgers
from tiny_study import ROUND, TINY, run, runs_of

import pinn_lora as pl
from pinn_lora.config import ConfigError, check_config
from pinn_lora.plan import plan_cases, plan_jobs
from pinn_lora.report import report


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
    for name, record in runs_of(finished).items():
        with (finished / "runs" / name / "history.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        if record["relative_l2"] is not None:
            assert float(last["relative_l2"]) == pytest.approx(
                record["relative_l2"], rel=1e-6
            )  # a history has 7 digits
        assert float(last["work"]) == pytest.approx(record["work"], rel=1e-6) and int(last["step"]) == record["steps"]
        assert (record["lift"], record["implicit"]) == {
            "odelora-implicit": ("balanced", True),
            "lora-sgd": ("chain_rule", False),
            "full-lm": (None, True),
        }[record["method"]]


def test_a_reference_that_cannot_be_computed_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"the reference of Burgers.* cannot be computed: .*; nothing was made$"):
        run(tmp_path / "tiny", TINY.replace('"0.5/pi"', "1e-6"))
    assert not (tmp_path / "tiny").exists()


def test_a_reference_that_is_not_finite_on_the_boundary_is_said_before_anything_is_made(tmp_path):
    (tmp_path / "round.py").write_text(ROUND.replace("(1.0 - p.x**2 - p.y**2)", "pl.log(1.0 - p.x**2)"))
    text = (
        TINY.replace('"burgers"', '"round.py"').replace('nu = "0.3/pi"', "k = 1.0").replace('nu = "0.5/pi"', "k = 2.0")
    )
    with pytest.raises(
        ConfigError, match=r"Round is not finite at 2 of \d+ points, the first at x = -1, y = 0; nothing"
    ):
        run(tmp_path / "tiny", text, origin=tmp_path)
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


def test_a_case_says_what_the_references_of_its_two_problems_may_err_by(finished, tmp_path, monkeypatch):
    (case,) = json.loads((finished / "study.json").read_text())["cases"]
    own = [Burgers(nu=nu / math.pi).reference_error() for nu in (0.5, 0.3)]
    assert [case["reference_error"], case["base_reference_error"]] == own
    assert {run["reference_error"] for run in runs_of(finished).values()} == {own[0]}
    again = shutil.copytree(finished, tmp_path / "again")
    for path in again.glob("cases/*.json"):
        path.unlink()
    monkeypatch.setattr(Burgers, "reference_error", lambda self: 1e-9 * self.nu)
    run(again)
    (case,) = json.loads((again / "study.json").read_text())["cases"]
    told = [1e-9 * 0.5 / math.pi, 1e-9 * 0.3 / math.pi]
    assert [case["reference_error"], case["base_reference_error"]] == pytest.approx(told, rel=1e-14)
