"""The scale of adapters: rsLoRA's formula, from where it is given to where it is saved."""

import json
import math
import tomllib

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from safetensors.torch import load_file

import pinn_lora as pl
from pinn_lora.config import ConfigError, check_config
from pinn_lora.plan import plan_cases
from pinn_lora.rslora import scale_of
from pinn_lora.study import run_study

RANKS = {"layers.1": 1, "layers.2": 3}
PROBLEM = Burgers(nu=0.1)
GIVEN = [("rslora", 1.0), ({"name": "rslora", "alpha": 2.5}, 2.5), (pl.RSLoRA(alpha=0.3), 0.3)]


def network() -> pl.MLP:
    return pl.MLP(PROBLEM.domain, width=6, depth=3, periodic=PROBLEM.periodic, seed=3)


def adapted(scale, **options) -> torch.nn.Module:
    """With factors that have moved."""
    found = pl.adapt(network(), **{"rank": RANKS, "scale": scale, **options})
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return found


@pytest.mark.parametrize(("scale", "alpha"), GIVEN, ids=str)
def test_every_layer_has_alpha_over_the_root_of_its_own_rank(scale, alpha):
    found, merged, base = adapted(scale), pl.merge(adapted(scale)), network()
    for name, rank in RANKS.items():
        layer = found.get_submodule(name)
        expected = base.get_submodule(name).weight + alpha / math.sqrt(rank) * layer.B @ layer.A
        # the same products in the same order
        torch.testing.assert_close(merged.get_submodule(name).weight, expected, rtol=0, atol=1e-15)


def test_a_number_is_the_scale_of_every_layer():
    for name in RANKS:
        assert adapted(0.5).get_submodule(name).scale == 0.5
        assert adapted(np.float64(0.5)).get_submodule(name).scale == 0.5


def test_a_start_sees_the_scale_of_its_rank():
    """PiSSA's s B A is the best part of W0 whatever s is, so that W0 - s B0 A0 has lost it."""
    found = pl.adapt(network(), rank=RANKS, scale="rslora", initializer="pissa")
    for name, rank in RANKS.items():
        layer = found.get_submodule(name)
        sigma = torch.linalg.svdvals(layer.weight)
        left = layer.effective_weight(torch.zeros_like(layer.B), layer.A)
        torch.testing.assert_close(torch.linalg.svdvals(left)[: 6 - rank], sigma[rank:], rtol=0, atol=1e-12)


def test_finetune_trains_as_with_the_number_that_the_rule_gives(small_base, target):
    options = {"rank": 2, "method": "lora-adam", "max_steps": 5, "points": 64}
    ruled, same, plain = (
        pl.finetune(small_base, target, scale=scale, **options) for scale in ("rslora", 1.0 / math.sqrt(2.0), None)
    )
    for key, value in ruled.network.state_dict().items():
        assert torch.equal(value, same.network.state_dict()[key])
    assert ruled.history[-1].loss != plain.history[-1].loss


# On disk


def pefts_scale(config, name: str) -> float:
    """What PEFT multiplies a layer's product with."""
    alpha = config["alpha_pattern"].get(name, config["lora_alpha"])
    rank = config["rank_pattern"].get(name, config["r"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


@pytest.mark.parametrize("initializer", ["zero_b", "balanced"])
@pytest.mark.parametrize("scale", ["rslora", {"name": "rslora", "alpha": 2.5}, 0.4])
def test_an_adapter_is_saved_in_pefts_layout_and_comes_back(tmp_path, scale, initializer):
    base = pl.Solution(PROBLEM, network())
    saved = pl.Solution(Burgers(nu=0.2), adapted(scale, initializer=initializer), base)
    folder = saved.save(tmp_path / "first")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["use_rslora"] == (scale != 0.4)
    tensors, merged = load_file(folder / "adapter_model.safetensors"), pl.merge(saved.network)
    for name in RANKS:
        B, A = (tensors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "BA")
        assert config["rank_pattern"].get(name, config["r"]) == len(A)
        weight = base.network.get_submodule(name).weight + pefts_scale(config, name) * B @ A
        torch.testing.assert_close(weight, merged.get_submodule(name).weight, rtol=0, atol=1e-13)
    again = pl.Solution.load(folder, base=base)
    for name in RANKS:
        assert again.network.get_submodule(name).scaling == scale_of(scale)
        assert torch.equal(pl.merge(again.network).get_submodule(name).weight, merged.get_submodule(name).weight)
    second = again.save(tmp_path / "second")
    for name in ("adapter_config.json", "pinn_lora.json"):
        assert (folder / name).read_text() == (second / name).read_text()


# In a study

STUDY = """
name = "scaled"
title = "Scaled"
points = 100
resamplings = 0
[[case]]
problem = "burgers"
base = { nu = "0.3/pi" }
target = { nu = "0.5/pi" }
width = 6
depth = 2
pretrain = { max_steps = 5, points = 100 }
SCALE
[[method]]
name = "lora-adam"
max_steps = 5
"""


def study(line: str, *, name="scaled"):
    return check_config(tomllib.loads(STUDY.replace("SCALE", line).replace("scaled", name)), where="scaled.toml")


def test_a_case_says_its_scale_and_runs_with_it(tmp_path):
    losses = []
    for k, line in enumerate(['scale = "rslora"', "scale = 0.5", "scale = 1"]):  # rank 4
        folder = run_study(study(line), tmp_path / str(k), command="", source="", progress=False)
        [path] = folder.glob("runs/*/run.json")
        losses.append(json.loads(path.read_text())["held_out_loss"])
        [case] = json.loads((folder / "study.json").read_text())["cases"]
        assert case["title"].endswith(["rank 4, rslora", "rank 4, scale 0.5", "rank 4"][k])
    assert losses[0] == losses[1] != losses[2]


def test_cases_that_differ_in_the_scale_alone_have_folders_of_their_own_and_one_base():
    lines = ["", 'scale = "rslora"', 'scale = { name = "rslora", alpha = 2.0 }', "scale = 2.0"]
    cases = [plan_cases(study(line))[0] for line in lines]
    assert [case.id.rpartition("-r4")[2] for case in cases] == ["", "-rslora", "-rslora-alpha-2", "-scale-2"]
    assert len({case.base_id for case in cases}) == 1


# Refusals


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0.0, r"^the adapter's scale is 0\.0; it must be a positive number, or 'rslora'$"),
        (math.nan, "the adapter's scale is nan"),
        ([1.0], r"^scale is \[1\.0\]; give a number$"),
        ("rslra", r"^there is no scale 'rslra'; did you mean 'rslora'\? \(choices: rslora\)$"),
        ({"alpha": 2.0}, "there is no scale ''"),
        (
            {"name": "rslora", "beta": 2.0},
            r"no option of rslora 'beta' .*\(choices: alpha\)|no option of rslora 'beta'",
        ),
        ({"name": "rslora", "alpha": "2"}, "option alpha of rslora is '2'; it must be of type float"),
        ({"name": "rslora", "alpha": -2.0}, r"^rslora: alpha is -2\.0; it must be above 0 and finite$"),
    ],
)
def test_a_scale_that_is_none_is_one_sentence(small_base, target, scale, message):
    with pytest.raises(ValueError, match=message):
        pl.adapt(network(), rank=2, scale=scale)
    with pytest.raises(ValueError, match=message):
        pl.finetune(small_base, target, scale=scale)


@pytest.mark.parametrize("line", ['scale = "rslra"', "scale = [1.0]", "scale = -1.0", "scale = { alpha = 1.0 }"])
def test_a_config_with_such_a_scale_is_refused_in_one_sentence(line):
    with pytest.raises(ConfigError, match=r"^scaled\.toml: case 1, scale( = |: )") as refused:
        study(line)
    assert str(refused.value).count("scaled.toml: ") == 1
