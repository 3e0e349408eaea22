"""Presets: what each says of itself, and names that do not exist."""

import pytest
import torch
from small_objective import objective_of

from pinn_lora.lifts.balanced import Balanced
from pinn_lora.presets import PRESETS, find_preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_it_is(name):
    preset = find_preset(name)
    assert len(preset.description) > 10
    assert preset.trains == ("all weights" if name.startswith("full-") else "factors")
    assert (preset.initializer is None) == (preset.trains == "all weights")
    assert preset.step_size > 0
    assert preset.max_steps > 0
    if name.startswith("odelora-"):
        assert isinstance(preset.method.lift, Balanced)
    if name in ("lora-lm", "full-lm", "odelora-implicit"):
        assert preset.method.integrator.implicit
        assert preset.method.integrator.adaptive


def test_lora_plus_moves_b_sixteen_times_as_fast_as_a():
    """As published, by gradient descent and by Adam, whose first step is the rate times the gradient's sign."""
    objective = objective_of()
    theta = objective.blocks.read(objective.network)
    g = objective.gradient(theta)[1]
    for name, slope in (("lora-plus", g), ("lora-plus-adam", g.sign())):
        run = PRESETS[name].method.start(objective.blocks, theta, step_size=1e-3, max_steps=10**9)
        moved = (theta - run.step(objective, theta).theta) / 1e-3
        for block in objective.blocks.pairs:
            (mB, mA), (gB, gA) = block.split(moved[block.slice]), block.split(slope[block.slice])
            torch.testing.assert_close(mB, 16.0 * gB, rtol=1e-4, atol=1e-9)  # Adam's eps of 1e-8 beside |g|
            torch.testing.assert_close(mA, gA, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["lora-adam", "full-adam", "lora-rad", "lora-rite", "lora-pro-adamw", "altlora-plus"])
def test_moments_are_averaged_as_adams(name):
    """0.9 and 0.999 as Kingma & Ba, arXiv 1412.6980, give them; altlora-plus too, which is published with others."""
    method = PRESETS[name].method
    first = method.beta if name == "altlora-plus" else method.beta1
    assert (first, method.beta2) == (0.9, 0.999)


def test_the_presets_of_the_main_job_are_there():
    assert set(PRESETS) >= {
        *("lora-sgd", "scaled-gd", "odelora-euler", "odelora-heun", "odelora-rk4", "odelora-implicit"),
        *("lora-lm", "lora-adam", "lora-lbfgs", "full-adam", "full-lbfgs", "full-lm"),
    }


def test_an_unknown_preset_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"no method 'odelora-implict'; did you mean 'odelora-implicit'\?"):
        find_preset("odelora-implict")
