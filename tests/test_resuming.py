"""What a FactorOptimizer remembers, through a file and back: a resumed run is the uninterrupted one."""

import io
import itertools
import types
from dataclasses import dataclass

import pytest
import torch
from closures import EXPLICIT, closure_for, closure_of, made_for, objective, optimizer_for

from pinn_lora.factor_optimizer import FactorOptimizer
from pinn_lora.method import Method
from pinn_lora.optimizers import Optimizer
from pinn_lora.optimizers.momentum import Momentum
from pinn_lora.optimizers.sd_lora import SDLoRA
from pinn_lora.optimizers.spqn import SPQN
from pinn_lora.optimizers.ssbroyden import SSBroyden


def resumed(make, optimizer, closure_of, *steps):
    """Factors and step size after so many steps, the later ones taken by a fresh optimizer on a fresh network, from a file."""
    made = make()
    taking = optimizer(made)
    for count, more in itertools.zip_longest(steps, steps[1:]):
        for _ in range(count):
            taking.step(closure_of(made))
        if more is None:
            return made.blocks.read(made.network), taking.param_groups[0]["lr"]
        kept = io.BytesIO()
        torch.save({"network": made.network.state_dict(), "optimizer": taking.state_dict()}, kept)
        kept.seek(0)
        saved, made = torch.load(kept), make()
        made.network.load_state_dict(saved["network"])
        taking = FactorOptimizer(made.network, taking.method)  # its own step size and length of a decay
        taking.load_state_dict(saved["optimizer"])


def assert_resumes(*case):
    for before in (0, 7):
        (theta, h), (expected, size) = resumed(*case, before, 5), resumed(*case, before + 5)
        assert torch.equal(theta, expected) and h == size, before


@pytest.mark.parametrize("name", EXPLICIT)
def test_a_resumed_run_is_the_uninterrupted_one(name):
    assert_resumes(lambda: made_for(name), lambda made: optimizer_for(name, made), lambda made: closure_for(name, made))


RESUMED = {  # beside the presets: the method, its step size, its network
    "rejected steps": (Method("adafactor", "weighted", "bogacki_shampine"), 1e3, {}),
    "a metric learnt by a lift": (Momentum(lift="weighted", metric="adafactor"), 1e-4, {"train_biases": True}),
    "kept magnitudes": (SDLoRA(rank=1), 1e-3, {"train_output": True}),
    "additive": (SPQN(kind="additive", local=2), 1.0, {"train_biases": True}),
    "one layer": (SPQN(), 1.0, {"targets": ["layers.1"]}),
    "a wide Hessian": (SSBroyden(variant="bfgs"), 1.0, {"train_output": True}),
}


@pytest.mark.parametrize("what", RESUMED)
def test_what_no_preset_keeps_is_resumed_too(what):
    method, h, options = RESUMED[what]
    assert_resumes(
        lambda: objective(**options), lambda made: FactorOptimizer(made.network, method, step_size=h), closure_of
    )


def test_a_resumed_run_knows_a_scheduler_the_points_and_a_change_of_the_factors():
    """What is outside of the method: the decay's factor, the loss at the old points, the factors as the method left them."""
    made, other = objective(), objective()
    optimizer = FactorOptimizer(made.network, "lora-adam", step_size=1e-3, max_steps=9)
    for _ in range(3):
        optimizer.step(closure_of(made))
        optimizer.param_groups[0]["lr"] *= 0.5
    again = FactorOptimizer(other.network, "lora-adam")
    again.load_state_dict(optimizer.state_dict())  # before its network's
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    other.network.load_state_dict(made.network.state_dict())
    for change in (1.0, 0.9):
        for one in (made, other):
            one.blocks.write(one.network, change * one.blocks.read(one.network))
        losses = [o.step(closure_of(m)) for o, m in ((optimizer, made), (again, other))]
        assert losses[0] == losses[1] and torch.equal(*(m.blocks.read(m.network) for m in (made, other)))
    optimizer, again = (FactorOptimizer(made.network, "lora-lbfgs") for _ in range(2))
    optimizer.step(closure_of(made))
    again.load_state_dict(optimizer.state_dict())
    kept = again._objective
    again.step(closure_of(made))
    assert again._objective is kept
    again.step(closure_of(made.with_points({"residual": (made.problem.domain.sample(64, seed=9),)})))
    assert again._objective is not kept


@dataclass(frozen=True)
class Secretive(Optimizer):
    """A method whose run has no state that could be read."""

    def start(self, blocks, theta, *, step_size, max_steps):
        return types.SimpleNamespace(h=step_size)


def test_a_state_that_does_not_fit_gets_one_sentence():
    one = lambda name="lora-adam", **options: FactorOptimizer(objective(**options).network, name)  # noqa: E731
    for state, said in (
        ({"state": {}, "param_groups": []}, "this state is of another optimizer; give one that a FactorOptimizer's"),
        (
            one("lora-rad").state_dict(),
            r"this state is of the method RAD\(.*\) and this optimizer's is Adam\(.*; make it",
        ),
        (one(rank=1).state_dict(), "factors with 20 numbers and the network's have 40; adapt"),
    ):
        with pytest.raises(ValueError, match=said):
            one().load_state_dict(state)
    for call in (lambda: one(Secretive()).state_dict(), lambda: one(Secretive()).load_state_dict({"method": {}})):
        with pytest.raises(ValueError, match=r"what Secretive\(\) keeps cannot be saved; derive its run"):
            call()
