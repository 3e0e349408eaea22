"""Our explicit methods as torch optimizers: the steps are those of `finetune` itself, and only the factors move."""

import math

import pytest
import torch
from closures import EXPLICIT, closure_for, closure_of, made_for, objective, optimizer_for
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora.factor_optimizer import FactorOptimizer
from pinn_lora.presets import PRESETS

IMPLICIT = [name for name, p in PRESETS.items() if p.method.implicit]


@pytest.mark.parametrize("name", EXPLICIT)
def test_steps_are_those_of_the_method(name):
    """Five steps on the closure's loss against five on the objective's: to 1e-6 of what moved, as rounding grows in them."""
    preset = PRESETS[name]
    own = {"initializer": preset.initializer} if preset.method.rank_factor > 1 else {}
    mine = objective(**own)
    start = mine.blocks.read(mine.network)
    run = preset.method.start(mine.blocks, start, step_size=1e-3, max_steps=50)
    theta = start
    for _ in range(5):
        theta = run.step(mine, theta).theta
    other = objective(**own)
    frozen = {k: v.clone() for k, v in other.network.state_dict().items() if not k.endswith((".A", ".B"))}
    optimizer = FactorOptimizer(other.network, name, step_size=1e-3, max_steps=50)
    closure = closure_for(name, other)
    first = other.value(start)
    losses = [optimizer.step(closure) for _ in range(5)]
    found = other.blocks.read(other.network)
    assert losses[0] == pytest.approx(first, rel=1e-12)
    assert not torch.equal(found, start)
    assert (found - theta).norm() <= 1e-6 * (theta - start).norm()
    assert all(torch.equal(value, other.network.state_dict()[key]) for key, value in frozen.items())


@pytest.mark.parametrize("metric", ["adaprelora", "bug"])
def test_trained_biases_and_output_move_too(metric):
    """Methods that ask for the gradient in the layers' own weights get the dense tensors' beside it."""
    mine, other = (objective(train_biases=True, train_output=True) for _ in range(2))
    preset, start = PRESETS[metric], mine.blocks.read(mine.network)
    expected = preset.method.start(mine.blocks, start, step_size=1e-3, max_steps=50).step(mine, start).theta
    FactorOptimizer(other.network, metric, step_size=1e-3, max_steps=50).step(closure_of(other))
    assert torch.allclose(other.blocks.read(other.network), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", IMPLICIT)
def test_an_implicit_method_is_refused_in_one_sentence(name):
    with pytest.raises(
        ValueError, match=r"pl.finetune\(pl.from_deepxde\(data, net\), pl.from_deepxde\(other"
    ) as caught:
        FactorOptimizer(objective().network, name)
    assert "\n" not in str(caught.value) and f"method={name!r}" in str(caught.value)
    method = PRESETS[name].method
    with pytest.raises(ValueError, match="takes implicit steps"):
        FactorOptimizer(objective().network, method)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: FactorOptimizer(objective().network, "odelora-rk5"), "no method 'odelora-rk5'"),
        (lambda: FactorOptimizer(objective().network, 3), "method is 3; give a preset's name"),
        (
            lambda: FactorOptimizer(objective().network, "full-adam"),
            "'full-adam' trains all weights; choose a method on",
        ),
        (lambda: FactorOptimizer(objective().network, step_size=-1.0), "step_size is -1.0; it must be above 0"),
        (
            lambda: FactorOptimizer(pl.MLP(Burgers().domain, width=4, depth=2)),
            "this network has no factors; pl.adapt_model",
        ),
        (lambda: FactorOptimizer(objective().network).step(), "needs a closure that returns the loss"),
    ],
)
def test_bad_input_gets_one_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_evaluations_are_not_made_twice():
    """A step of Runge-Kutta 4 is four gradients, one of the adaptive method three after the first."""
    for name, counts in (("odelora-rk4", [4, 4, 4]), ("lora-adam", [1, 1, 1])):
        made, evaluated = objective(), []
        closure = closure_of(made)
        optimizer = FactorOptimizer(made.network, name, step_size=1e-3)
        counted = lambda c=closure, e=evaluated: (e.append(1), c())[1]  # noqa: E731
        taken = []
        for _ in range(3):
            before = len(evaluated)
            optimizer.step(counted)
            taken.append(len(evaluated) - before)
        assert taken == counts, name


def test_lbfgs_starts_anew_at_other_points():
    """Its remembered loss does not hold there: the run continues from the new points' loss and falls."""
    made = objective()
    optimizer = FactorOptimizer(made.network, "lora-lbfgs")
    for _ in range(4):
        optimizer.step(closure_of(made))
    kept = optimizer._objective
    optimizer.step(closure_of(made))
    assert optimizer._objective is kept  # the same points, though another closure
    moved = made.with_points({"residual": (made.problem.domain.sample(64, seed=9),)})
    closure = closure_of(moved)
    at_new = float(closure().detach())
    losses = [optimizer.step(closure) for _ in range(6)]
    assert optimizer._objective is not kept
    assert losses[0] == pytest.approx(at_new, rel=1e-12) and losses[-1] < 0.9 * losses[0]


def test_factors_that_somebody_else_changed_are_taken_as_they_are():
    made = objective()
    optimizer = FactorOptimizer(made.network, "lora-lbfgs")
    optimizer.step(closure_of(made))
    theta = 0.5 * made.blocks.read(made.network)
    made.blocks.write(made.network, theta)
    closure = closure_of(made)
    assert optimizer.step(closure) == pytest.approx(made.value(theta), rel=1e-12)


def test_a_scheduler_sets_the_step_size():
    made = objective()
    optimizer = FactorOptimizer(made.network, "lora-sgd", step_size=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    before = made.blocks.read(made.network)
    for expected in (1e-3, 5e-4, 2.5e-4):
        theta, (_, g) = made.blocks.read(made.network), made.gradient(made.blocks.read(made.network))
        optimizer.step(closure_of(made))
        made.blocks.write(made.network, made.blocks.read(made.network))
        assert torch.allclose(made.blocks.read(made.network), theta - expected * g, rtol=0, atol=1e-12)
        scheduler.step()
    assert not torch.equal(before, made.blocks.read(made.network))


def test_a_step_that_leads_nowhere_leaves_the_factors():
    made = objective()
    before = made.blocks.read(made.network)
    optimizer = FactorOptimizer(made.network, "odelora-rk4", step_size=1e200)
    with pytest.raises(
        FloatingPointError, match="a step of size 1e\\+200 leads to factors or a loss that are not finite"
    ):
        optimizer.step(closure_of(made))
    assert torch.equal(made.blocks.read(made.network), before)
    assert math.isfinite(optimizer.param_groups[0]["lr"])


DECAYING = [name for name in EXPLICIT if getattr(PRESETS[name].method, "decay", False)]


@pytest.mark.parametrize("name", DECAYING)
def test_a_scheduler_acts_on_a_decay(name):
    """The step size is the cosine times what the scheduler has made of it, and the step is one of that size."""
    made, alone = made_for(name), made_for(name)
    optimizer, closure = optimizer_for(name, made), closure_for(name, made)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    start = theta = alone.blocks.read(alone.network)
    run = PRESETS[name].method.start(alone.blocks, theta, step_size=1e-3, max_steps=20)
    for k in range(6):
        run.h *= 0.5**k
        theta = run.step(alone, theta).theta
        optimizer.step(closure)
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 ** (k + 1) * run.h, rel=1e-12)
    assert (made.blocks.read(made.network) - theta).norm() <= 1e-6 * (theta - start).norm()


def test_a_step_size_that_is_set_is_that_of_the_step():
    """Zero too, and again after the decay has ended, as by a scheduler that knows nothing of what is there."""
    made = objective()
    optimizer, closure = FactorOptimizer(made.network, "lora-momentum", step_size=1e-3, max_steps=2), closure_of(made)
    for lr, moves in ((0.0, False), (1e-4, True), (1e-4, True), (0.0, False)):
        optimizer.param_groups[0]["lr"], before = lr, made.blocks.read(made.network)
        optimizer.step(closure)
        assert torch.equal(made.blocks.read(made.network), before) != moves


@pytest.mark.parametrize("name", DECAYING)
def test_changed_factors_begin_a_decay_anew(name):
    """After its end, too, where the step size is zero: as a new optimizer, at half the size where a scheduler halved it."""
    made, alone = made_for(name), made_for(name)
    start = made.blocks.read(made.network)
    optimizer, closure = FactorOptimizer(made.network, name, step_size=1e-3, max_steps=3), closure_for(name, made)
    for _ in range(3):
        optimizer.step(closure)
        if optimizer.param_groups[0]["lr"] > 5e-4:
            optimizer.param_groups[0]["lr"] *= 0.5
    assert optimizer.param_groups[0]["lr"] == 0.0
    made.blocks.write(made.network, start)
    anew = FactorOptimizer(alone.network, name, step_size=1e-3, max_steps=3)
    anew.param_groups[0]["lr"] = 5e-4
    for _ in range(3):
        optimizer.step(closure)
        anew.step(closure_for(name, alone))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(anew.param_groups[0]["lr"], rel=1e-12)
    end = alone.blocks.read(alone.network)
    assert (made.blocks.read(made.network) - end).norm() <= 1e-6 * (end - start).norm()


@pytest.mark.parametrize("name", ["lora-lbfgs", "lora-ssbroyden", "lora-spqn"])
def test_a_line_search_asks_for_the_step_size_at_its_start_alone(name):
    ends = []
    for first, later in ((1.0, 1.0), (1.0, 1e-9), (1e-3, 1.0)):
        made = objective()
        optimizer, closure = FactorOptimizer(made.network, name, step_size=first), closure_of(made)
        for _ in range(4):
            optimizer.step(closure)
            optimizer.param_groups[0]["lr"] = later
        ends.append(made.blocks.read(made.network))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("name", EXPLICIT)
def test_a_loss_that_is_not_finite_costs_nothing(name):
    """Neither factors nor what the method remembers: the steps after it are those without it."""
    ends = []
    for broken in (False, True):
        made = made_for(name)
        optimizer, closure = optimizer_for(name, made), closure_for(name, made)
        for _ in range(3):
            optimizer.step(closure)
        if broken:
            with pytest.raises(
                FloatingPointError, match="the loss at these factors, nan, or its gradient is not finite"
            ):
                optimizer.step(lambda c=closure: c() * math.nan)
        for _ in range(3):
            optimizer.step(closure)
        ends.append(made.blocks.read(made.network))
    assert torch.equal(*ends)


@pytest.mark.parametrize("resumed", [False, True], ids=["goes on", "is resumed"])
@pytest.mark.parametrize("name", EXPLICIT)
def test_a_method_goes_on_after_a_step_that_led_nowhere(name, resumed):
    """An endless one: factors and step size are as before, and the steps after it lower the loss."""
    made = made_for(name)
    optimizer, closure = optimizer_for(name, made), closure_for(name, made)
    start, h = made.blocks.read(made.network), optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"] = math.inf
    try:
        optimizer.step(closure)
    except FloatingPointError as error:
        assert "a step of size inf leads to factors or a loss that are not finite" in str(error)
        assert torch.equal(made.blocks.read(made.network), start)
    made.blocks.write(made.network, start)  # where a line search found a step
    if resumed:
        saved, optimizer = optimizer.state_dict(), FactorOptimizer(made.network, PRESETS[name].method)
        optimizer.load_state_dict(saved)
        assert torch.equal(made.blocks.read(made.network), start)
    optimizer.param_groups[0]["lr"] = h
    for _ in range(4):
        optimizer.step(closure)
    assert made.value(made.blocks.read(made.network)) < made.value(start)
