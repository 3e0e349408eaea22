"""Whole optimizers: torch's own, step by step, give what torch's own give when they are used directly."""

import dataclasses
import itertools
import math

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_objective import objective_for, objective_of, started

from pinn_lora import catalog, optimizers
from pinn_lora.optimizers import Optimizer
from pinn_lora.optimizers.adam import Adam
from pinn_lora.optimizers.lbfgs import LBFGS
from pinn_lora.points import first_points

OPTIMIZERS = catalog.names(optimizers)
FACTORS = [name for name in OPTIMIZERS if catalog.find(optimizers, Optimizer, name).needs_factors]


def closure_of(objective, parameter):
    def closure():
        value, parameter.grad = objective.gradient(parameter.detach())
        return value

    return closure


@dataclasses.dataclass
class Quadratic:
    """f = sum c (y - 1)^2, as an objective."""

    c: torch.Tensor
    evaluations: int = 0

    def gradient(self, theta):
        self.evaluations += 1
        difference = theta - 1.0
        return float((self.c * difference.square()).sum()), 2.0 * self.c * difference


@pytest.mark.parametrize(
    ("name", "adapted"), [(n, a) for n in OPTIMIZERS for a in (True, False) if a or n not in FACTORS]
)
def test_every_optimizer_lowers_the_loss_and_says_where_each_step_began(name, adapted):
    rule = catalog.build(optimizers, Optimizer, name)
    objective = objective_for(rule) if adapted else objective_of(adapted=False)
    run, theta = started(rule, objective, step_size=1e-2, max_steps=30)
    first = objective.value(theta)
    for _ in range(30):
        before = theta.clone()
        taken = run.step(objective, theta)
        assert taken.value == pytest.approx(objective.value(before), rel=1e-12)
        assert torch.equal(theta, before)
        assert torch.equal(taken.theta, before) == (not taken.accepted)
        theta = taken.theta
        assert run.h == taken.next_h
    assert objective.value(theta) < 0.98 * first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_is_the_same_every_time_and_a_rule_keeps_no_state(name):
    rule, found = catalog.build(optimizers, Optimizer, name), []
    for _ in range(2):
        objective = objective_for(rule)
        run, theta = started(rule, objective, step_size=1e-2, max_steps=10)
        for _ in range(10):
            theta = run.step(objective, theta).theta
        found.append(theta)
    assert torch.equal(*found)


DENSE = {"-g": torch.optim.SGD, "Adam": torch.optim.Adam}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dense_tensors_beside_factors_follow_the_rule_that_is_declared(name):
    """Every bias, and the output layer's matrix: torch's step for the same gradients, to 1e-12 of it, as theta - h g rounds;
    where no rule of their own is declared, all of them move, and the loss falls along their own steps."""
    rule = catalog.build(optimizers, Optimizer, name)
    objective = objective_for(rule, train_biases=True, train_output=True)
    run, theta = started(rule, objective, step_size=1e-3, max_steps=9)
    start, fall = theta, 0.0
    beside = [block.slice for block in objective.blocks.blocks if block not in objective.blocks.pairs]
    assert len(beside) == 5
    parameters = [torch.nn.Parameter(theta[place].clone()) for place in beside]
    direct = DENSE[rule.dense](parameters, lr=1e-3) if rule.dense else None
    for _ in range(6):
        h, g, before = run.h, objective.gradient(theta)[1], theta
        theta = run.step(objective, theta).theta
        fall += sum(float(g[place] @ (theta - before)[place]) for place in beside)
        for place, parameter in zip(beside, parameters, strict=True) if direct else ():
            parameter.data.copy_(before[place])
            parameter.grad = g[place].clone()
        if direct:
            direct.param_groups[0]["lr"] = h
            direct.step()
            for place, parameter in zip(beside, parameters, strict=True):
                assert (theta[place] - parameter.detach()).norm() <= 1e-12 * (theta - before)[place].norm()
    assert not any(torch.equal(theta[place], start[place]) for place in beside)
    assert fall < 0


# Adam


@pytest.mark.parametrize("settings", [{}, {"beta1": 0.5, "beta2": 0.9, "eps": 1e-4}], ids=str)
def test_adam_is_torchs_with_cosine_decay(settings):
    objective, steps = objective_of(), 25
    run, theta = started(Adam(**settings), objective, step_size=3e-2, max_steps=steps)
    parameter = torch.nn.Parameter(theta.clone())
    betas = settings.get("beta1", 0.9), settings.get("beta2", 0.999)
    direct = torch.optim.Adam([parameter], lr=3e-2, betas=betas, eps=settings.get("eps", 1e-8))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(direct, T_max=steps)
    for _ in range(steps):
        theta = run.step(objective, theta).theta
        direct.step(closure_of(objective, parameter))
        schedule.step()
        assert (theta - parameter.detach()).norm() <= 1e-12 * theta.norm()
        assert run.h == pytest.approx(schedule.get_last_lr()[0], rel=1e-9, abs=1e-15)
    assert run.h == pytest.approx(0.0, abs=1e-15)


def test_adam_without_decay_keeps_its_step_size():
    objective = objective_of()
    run, theta = started(Adam(decay=False), objective, step_size=1e-2, max_steps=5)
    parameter = torch.nn.Parameter(theta.clone())
    direct = torch.optim.Adam([parameter], lr=1e-2)
    for _ in range(5):
        theta = run.step(objective, theta).theta
        direct.step(closure_of(objective, parameter))
        assert run.h == 1e-2
    assert torch.equal(theta, parameter.detach())


def test_adam_costs_one_gradient_a_step_and_keeps_its_moments_over_new_points():
    objective = objective_of()
    run, theta = started(Adam(decay=False), objective, step_size=1e-2, max_steps=9)
    other = objective.with_points(first_points(objective.problem, 64, seed=8))
    parameter = torch.nn.Parameter(theta.clone())
    direct = torch.optim.Adam([parameter], lr=1e-2)
    for at in (objective, objective, other, other):
        theta = run.step(at, theta).theta
    assert objective.work.gradients == 4
    for at in (objective, objective, other, other):
        direct.step(closure_of(at, parameter))
    assert torch.equal(theta, parameter.detach())


# L-BFGS


@pytest.mark.parametrize("form", ["ansatz", "soft"])
def test_lbfgs_step_by_step_is_torchs_in_one_call(form):
    """To 1e-10: the same operations, but for what torch carries over from a line search instead of evaluating again."""
    steps, objective = 20, objective_of(form=form)
    run, theta = started(LBFGS(history=10), objective, step_size=1.0, max_steps=steps)
    parameter = torch.nn.Parameter(theta.clone())
    direct = torch.optim.LBFGS(
        [parameter],
        lr=1.0,
        max_iter=steps,
        max_eval=10_000,
        history_size=10,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    start = theta
    direct.step(closure_of(objective, parameter))
    for _ in range(steps):
        taken = run.step(objective, theta)
        assert taken.accepted
        theta = taken.theta
    assert (theta - start).norm() > 0.1
    assert (theta - parameter.detach()).norm() < 1e-10 * theta.norm()


def test_lbfgs_finishes_when_its_line_search_stops():
    """At the minimum of a quadratic; and it says so only after a fresh history has not moved theta either."""
    objective = Quadratic(torch.logspace(0, 3, 6, dtype=torch.float64))
    theta = torch.zeros(6, dtype=torch.float64)
    run = LBFGS().start(None, theta, step_size=1.0, max_steps=100)
    for _ in range(100):
        taken = run.step(objective, theta)
        theta = taken.theta
        if taken.finished:
            break
        stuck = not taken.accepted
    assert taken.finished
    assert not taken.accepted
    assert stuck or taken.value == 0.0
    assert (theta - 1.0).abs().max() < 1e-8


def test_lbfgs_at_a_stationary_point_finishes_at_once():
    objective = Quadratic(torch.ones(3, dtype=torch.float64))
    theta = torch.ones(3, dtype=torch.float64)
    taken = LBFGS().start(None, theta, step_size=1.0, max_steps=5).step(objective, theta)
    assert taken.finished
    assert torch.equal(taken.theta, theta)


def test_new_points_restart_lbfgs():
    """After a change of points a run goes on as one that is started there."""
    objective = objective_of()
    other = objective.with_points(first_points(objective.problem, 64, seed=8))
    run, theta = started(LBFGS(), objective, step_size=1.0, max_steps=9)
    for _ in range(5):
        theta = run.step(objective, theta).theta
    fresh = LBFGS().start(objective.blocks, theta, step_size=1.0, max_steps=9)
    kept = theta
    for _ in range(4):
        theta, kept = run.step(other, theta).theta, fresh.step(other, kept).theta
        assert torch.equal(theta, kept)


def test_lbfgs_evaluates_no_point_twice_in_a_row():
    """The gradient where a line search ended is the one the next step begins with, where it was its last evaluation."""
    objective = objective_of()
    seen, real = [], objective.gradient
    object.__setattr__(objective, "gradient", lambda theta: seen.append(theta.clone()) or real(theta))
    run, theta = started(LBFGS(), objective, step_size=1.0, max_steps=15)
    for _ in range(15):
        theta = run.step(objective, theta).theta
    assert len(seen) >= 15
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loss_that_is_not_finite_is_handed_on(name):
    @dataclasses.dataclass(frozen=True)
    class Broken(Burgers):
        def residual(self, p, u):
            return math.nan * u.t

    rule = catalog.build(optimizers, Optimizer, name)
    objective = dataclasses.replace(objective_for(rule), problem=Broken(nu=0.1))
    run, theta = started(rule, objective, step_size=1e-2, max_steps=5)
    taken = run.step(objective, theta)
    assert not (math.isfinite(taken.value) and taken.theta.isfinite().all())


@pytest.mark.parametrize("name", FACTORS)
def test_a_method_of_factors_refuses_a_network_without_any(name):
    with pytest.raises(ValueError, match=f"{name} works on LoRA factors and this network has none; take full-lm"):
        started(catalog.build(optimizers, Optimizer, name), objective_of(adapted=False), step_size=1e-2, max_steps=5)


def test_an_optimizer_that_is_not_there_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no optimizer 'lbfg'; did you mean 'lbfgs'\? \(choices: adam, "):
        catalog.build(optimizers, Optimizer, "lbfg")
