"""What a study hands to `pretrain` and `finetune`: every argument is the config's."""

import inspect
import math
import tomllib

import pytest
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora.config import check_config
from pinn_lora.study import run_study

STUDY = """
name = "handed"
title = "Handed over"
seeds = [3, 5]
points = 110
resamplings = 3
dtype = "float32"
device = "cpu"
compile = true
[[case]]
problem = "burgers"
base = { nu = "0.3/pi", form = "soft" }
target = { nu = "0.5/pi", form = "soft" }
network = { name = "mlp", fourier = 2 }
width = 6
depth = 2
rank = 2
scale = 0.5
weights = { residual = 2.0, initial = 3.0 }
pretrain = { method = "full-adam", max_steps = 15, max_seconds = 40.0, points = 150 }
[[case]]
problem = "burgers"
base = { nu = "0.4/pi" }
target = { nu = "0.5/pi" }
width = 8
depth = 3
rank = 3
scale = "rslora"
points = 70
[[method]]
name = "odelora-euler"
starts = ["balanced"]
step_sizes = [0.25]
max_steps = 10
max_seconds = 60.0
[[method]]
name = "mine"
integrator = "heun"
cases = [2]
"""
SOFT = {"residual": 2.0, "initial": 3.0}
SAME = {"dtype": "float32", "device": "cpu", "compile": True, "progress": False}
NU = [x / math.pi for x in (0.3, 0.4, 0.5)]
FIRST = {
    "problem": Burgers(nu=NU[2], form="soft"),
    "base": Burgers(nu=NU[0], form="soft"),
    "method": "odelora-euler",
    "rank": 2,
    "scale": 0.5,
    "initializer": "balanced",
    "step_size": 0.25,
    "max_steps": 10,
    "max_seconds": 60.0,
    "points": 110,
    "resample_every": 3,  # 10 steps in 3 + 1 parts, rounded up
    "weights": SOFT,
    **SAME,
}
SECOND = FIRST | {
    "problem": Burgers(nu=NU[2]),
    "base": Burgers(nu=NU[1]),
    "rank": 3,
    "scale": {"name": "rslora", "alpha": 1.0},
    "points": 70,
    "weights": {},
}
MINE = SECOND | {
    "method": check_config(tomllib.loads(STUDY), where="x").method[1].preset(),
    "initializer": "zero_b",
    "step_size": 1e-3,  # this and the steps are finetune's for such a method
    "max_steps": 5000,
    "max_seconds": None,
    "resample_every": 1250,
}
RUNS = [{**run, "seed": seed} for run in (FIRST, SECOND, MINE) for seed in (3, 5)]
SHAPES = (
    {"network": {"name": "mlp", "fourier": 2}, "width": 6, "depth": 2},
    {"network": "mlp", "width": 8, "depth": 3},
)
BASES = [
    {
        "problem": FIRST["base"],
        "weights": SOFT,
        "method": "full-adam",
        "max_steps": 15,
        "max_seconds": 40.0,
        "points": 150,
    }
    | {"seed": 0, **SHAPES[0], **SAME},
    {"problem": SECOND["base"], "weights": {}, "seed": 0, **SHAPES[1], **SAME},
]


def handed_over(folder, monkeypatch, text=STUDY):
    """The arguments of every call of `pretrain`, which trains a little, and of `finetune`, which refuses, as a run may be."""
    bases, runs = [], []

    def record_base(*given, **named):
        arguments = inspect.signature(pl.pretrain).bind(*given, **named).arguments
        bases.append(arguments)
        shape = {name: arguments[name] for name in ("network", "width", "depth")}
        return pl.pretrain(arguments["problem"], max_steps=1, points=60, **shape)

    def record_run(*given, **named):
        arguments = inspect.signature(pl.finetune).bind(*given, **named).arguments
        runs.append({**arguments, "base": arguments["base"].problem})
        raise ValueError("recorded")

    monkeypatch.setattr("pinn_lora.study.pretrain", record_base)
    monkeypatch.setattr("pinn_lora.study.finetune", record_run)
    config = check_config(tomllib.loads(text), where="x")
    run_study(config, folder, command="", source=text, progress=False)
    return bases, runs


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return handed_over(tmp_path_factory.mktemp("handed") / "study", patch)


@pytest.mark.parametrize("argument", RUNS[0])
def test_every_run_gets_what_the_config_says(handed, argument):
    assert [run[argument] for run in handed[1]] == [run[argument] for run in RUNS]


@pytest.mark.parametrize("argument", BASES[0])
def test_every_base_gets_what_the_config_says(handed, argument):
    """Where the config is silent, nothing is handed over, so that the default is `pretrain`'s own."""
    assert [base.get(argument) for base in handed[0]] == [base.get(argument) for base in BASES]


def test_nothing_else_is_handed_over(handed):
    assert [base.keys() for base in handed[0]] == [base.keys() for base in BASES]
    assert [run.keys() for run in handed[1]] == [run.keys() for run in RUNS]


def test_without_resamplings_the_points_stay(tmp_path, monkeypatch):
    _, runs = handed_over(tmp_path / "study", monkeypatch, STUDY.replace("resamplings = 3", "resamplings = 0"))
    assert [run["resample_every"] for run in runs] == [None] * len(RUNS)
