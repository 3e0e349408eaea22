"""What a run's record says: the method's parts as they can be built again, what made it, and how it ended."""

import json
import math
import subprocess
import tomllib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from pinn_lora.problems.reaction import Reaction
from test_plan import STUDY, planned

import pinn_lora as pl
from pinn_lora import about, catalog, optimizers
from pinn_lora.method import Method
from pinn_lora.optimizers import Optimizer
from pinn_lora.presets import PRESETS
from pinn_lora.results import describe_run, outcome
from pinn_lora.solution import stated_error


def rebuilt(parts):
    """The method that a record's parts spell out, after a way through a file."""
    parts = json.loads(json.dumps(parts))
    if "optimizer" in parts:
        return catalog.build(optimizers, Optimizer, parts["optimizer"])
    return Method(**parts)


@pytest.mark.parametrize("name", PRESETS)
def test_a_record_spells_out_the_whole_method(name):
    (job,) = planned(STUDY + f'name = "{name}"')
    record = describe_run(job)
    assert rebuilt(record["parts"]) == PRESETS[name].method
    assert record["source"] == about.source() and record["versions"] == about.versions()
    assert record["machine"] == about.machine()


def test_a_record_has_the_options_that_were_asked_for():
    text = 'name = "mine"\nlift = { name = "chain_rule", ratio = 4.0 }\nintegrator = { name = "rkc", stages = 3 }'
    (job,) = planned(STUDY + text)
    record = describe_run(job)
    assert record["parts"]["lift"] == {"name": "chain_rule", "ratio": 4.0}
    assert record["parts"]["integrator"] == {"name": "rkc", "stages": 3, "damping": 0.05}
    assert (record["mass"], record["order"], record["bends"], record["idle"]) == ("identity / 4 on B", 1, False, [])


@pytest.mark.parametrize(
    ("integrator", "bends", "idle"),
    [
        ("{}", True, []),
        ("{ acceleration = 0.0 }", False, []),
        ("{ adaptive = false }", False, ["accept", "grow", "shrink", "acceleration"]),
    ],
)
def test_a_record_says_whether_steps_bend_and_what_is_idle(integrator, bends, idle):
    options = tomllib.loads(f"integrator = {integrator}")["integrator"]
    spec = json.dumps({"name": "rosenbrock_euler"} | options).replace(":", " =")
    (job,) = planned(STUDY + f'name = "mine"\nintegrator = {spec}')
    record = describe_run(job)
    assert (record["bends"], record["idle"]) == (bends, [f"integrator.{option}" for option in idle])


@pytest.fixture(scope="module")
def solution():
    return pl.pretrain(Reaction(), width=4, depth=1, method="full-adam", max_steps=3, points=20, seed=0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_null_in_a_record(solution, value):
    last = replace(solution.history[-1], relative_l2=value, held_out_loss=value)
    found = outcome(replace(solution, history=(*solution.history[:-1], last)))
    assert found["relative_l2"] is found["held_out_loss"] is None
    json.dumps(found, allow_nan=False)


def test_an_outcome_is_the_last_record(solution):
    last, found = solution.history[-1], outcome(solution)
    assert (found["relative_l2"], found["held_out_loss"]) == (last.relative_l2, last.held_out_loss)
    assert (found["steps"], found["seconds"], found["work"]) == (last.step, last.seconds, last.work)
    assert found["machine"] == about.machine() and found["threads"] == torch.get_num_threads()


@dataclass(frozen=True)
class Computed(Reaction):
    """Reaction, whose reference states an error of its own, or raises where it is none."""

    told: object = 3e-9

    def reference_error(self):
        if self.told is None:
            raise RuntimeError("it was asked")
        return self.told


@dataclass(frozen=True)
class Unknown(Reaction):
    """Reaction with a reference that raises, whatever is asked of it."""

    def reference(self, p):
        raise RuntimeError("it was asked")

    def reference_error(self):
        raise RuntimeError("it was asked")


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(Reaction(), None), (Computed(), 3e-9), (Computed(told=np.float32(0.5)), 0.5), (Unknown(), None)]
    + [(Computed(told=told), None) for told in (None, math.nan, math.inf, "small")],
    ids=repr,
)
def test_an_outcome_says_what_the_reference_may_err_by(solution, problem, expected):
    """And what it states of itself in vain stops no run."""
    found = outcome(replace(solution, problem=problem))
    assert found["reference_error"] == expected == stated_error(problem)
    json.dumps(found, allow_nan=False)


def test_a_run_does_not_ask_what_the_reference_may_err_by(solution):
    """Where asking raises, the same numbers are trained; only the errors that are reported are not there."""
    told = {"width": 4, "depth": 1, "method": "full-adam", "max_steps": 3, "points": 20, "seed": 0}
    for problem in (Computed(told=None), Unknown()):
        found = pl.pretrain(problem, **told)
        assert [r.held_out_loss for r in found.history] == [r.held_out_loss for r in solution.history]
        assert [r.loss for r in found.history] == [r.loss for r in solution.history]
    assert outcome(found)["relative_l2"] is None


def test_an_outcome_names_the_device_that_it_ran_on(solution, monkeypatch):
    """The network's own: a study may ask for one of several."""
    monkeypatch.setattr("pinn_lora.results.machine", lambda device: device)
    assert outcome(solution)["machine"] == "cpu"
    monkeypatch.setattr(solution.network, "parameters", lambda: iter([torch.empty(1, device="meta")]), raising=False)
    assert outcome(solution)["machine"] == "meta"


def test_the_source_is_the_commit_of_a_checkout_marked_where_it_was_edited(tmp_path, monkeypatch):
    package = tmp_path / "pinn_lora"
    package.mkdir()
    (package / "about.py").write_text("# as committed\n")
    monkeypatch.setattr(about, "__file__", str(package / "about.py"))
    source = about.source.__wrapped__
    assert source() == about.__version__, "installed, or unpacked"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert source() == commit
    (tmp_path / "note").write_text("beside the package")
    assert source() == commit
    (package / "about.py").write_text("# edited\n")
    assert source() == f"{commit}, edited"
    monkeypatch.setenv("PATH", "")
    assert source() == about.__version__, "without git"
