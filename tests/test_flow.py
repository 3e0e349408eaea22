"""Methods: three parts by name, by options or by instance, and what does not go together."""

import dataclasses
import math
import re

import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import catalog, integrators, lifts, metrics
from pinn_lora.flow import Flow
from pinn_lora.integrators import Integrator
from pinn_lora.integrators.rosenbrock_euler import RosenbrockEuler
from pinn_lora.lifts import Lift
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lora import Blocks
from pinn_lora.metrics import Metric
from pinn_lora.metrics.identity import Identity
from pinn_lora.objective import Work
from pinn_lora.points import first_points
from pinn_lora.presets import PRESETS, find_preset
from pinn_lora.solvers import Solver

TRIPLES = [
    (metric, lift, integrator)
    for metric in catalog.names(metrics)
    for lift in catalog.names(lifts)
    for integrator in catalog.names(integrators)
    if catalog.build(lifts, Lift, lift).has_mass or not catalog.find(integrators, Integrator, integrator).implicit
    if catalog.find(lifts, Lift, lift).uses_metric or not catalog.find(metrics, Metric, metric).learns
]


@dataclasses.dataclass(frozen=True)
class Massless(Lift):
    """Plain LoRA that does not say what its mass is."""

    def velocity(self, pair, g_B, g_A, metric):
        return -g_B, -g_A


def objective_of(seed: int = 1, **options) -> pl.Objective:
    problem = Burgers(nu=0.1)
    network = pl.MLP(problem.domain, width=5, depth=3, periodic=problem.periodic, seed=3)
    adapted = pl.adapt(network, rank=2, initializer="balanced", **options)
    return pl.Objective(problem, adapted, Blocks(adapted), first_points(problem, 64, seed=seed))


def started(method: pl.Method, objective: pl.Objective, h: float):
    theta = objective.blocks.read(objective.network)
    return method.start(objective.blocks, theta, step_size=h, max_steps=10), theta


@pytest.mark.parametrize(("metric", "lift", "integrator"), TRIPLES, ids=str)
def test_every_triple_takes_steps_that_lower_the_loss(metric, lift, integrator):
    method = pl.Method(metric, lift, integrator)
    objective = objective_of(train_biases=True)
    run, theta = started(method, objective, 1e-4)
    first = objective.value(theta)
    for _ in range(3):
        taken = run.step(objective, theta)
        theta = taken.theta
    assert objective.value(theta) < first
    assert theta.shape == (objective.size,)


def test_names_options_and_instances_mean_the_same():
    by_name = pl.Method("identity", "balanced", "rosenbrock_euler")
    by_instance = pl.Method(Identity(), Balanced(), RosenbrockEuler())
    by_options = pl.Method(
        {"name": "identity"}, {"name": "balanced", "eps": 1e-4}, {"name": "rosenbrock_euler", "adaptive": True}
    )
    assert by_name == by_instance == by_options
    assert hash(by_name) == hash(by_instance)
    assert isinstance(pl.Method().metric, Metric)
    assert pl.Method(lift={"name": "balanced", "eps": 1e-2}).lift == Balanced(1e-2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lift": "balancd"}, r"no lift 'balancd'; did you mean 'balanced'\? \(choices: balanced, "),
        (
            {"integrator": "rkk4"},
            r"no integrator 'rkk4'; did you mean 'rk4'\? \(choices: .*euler",
        ),
        ({"metric": "identiy"}, r"no metric 'identiy'; did you mean 'identity'\?"),
        ({"lift": {"name": "balanced", "epsilon": 1}}, r"no option of balanced 'epsilon'; did you mean 'eps'\?"),
        ({"lift": {"eps": 1}}, r"no lift None \(choices: "),
        ({"lift": {"name": "balanced", "eps": -1.0}}, "balanced: eps is -1.0; it must be at least 0"),
        ({"lift": "euler"}, r"no lift 'euler'"),
        ({"lift": RosenbrockEuler()}, r"no lift .*RosenbrockEuler"),
    ],
    ids=str,
)
def test_a_method_that_does_not_exist_is_refused_when_it_is_built(parts, message):
    with pytest.raises(ValueError, match=message) as caught:
        pl.Method(**parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("integrator", catalog.names(integrators))
def test_a_lift_without_a_mass_goes_with_explicit_integrators_only(integrator):
    if catalog.find(integrators, Integrator, integrator).implicit:
        with pytest.raises(
            ValueError, match=r"needs the lift's mass and Massless\(\) has none; take an explicit integrator"
        ):
            pl.Method(lift=Massless(), integrator=integrator)
    else:
        objective = objective_of()
        run, theta = started(pl.Method(lift=Massless(), integrator=integrator), objective, 1e-4)
        assert objective.value(run.step(objective, theta).theta) < objective.value(theta)


def test_what_is_advised_in_place_of_a_lift_without_a_mass_works():
    with pytest.raises(
        ValueError, match=r"LoRAPro\(gauge='sylvester', .*with a mass \(.+\), or lora_pro with the"
    ) as caught:
        pl.Method(lift="lora_pro", integrator="rosenbrock_euler")
    explicit, others, gauge = re.search(r"such as (\w+), .*\((.*)\), .* gauge (\w+)$", str(caught.value)).groups()
    pl.Method(lift="lora_pro", integrator=explicit)
    for lift in (*others.split(", "), {"name": "lora_pro", "gauge": gauge}):
        assert pl.Method(lift=lift, integrator="rosenbrock_euler").implicit
    assert "balanced" in others


def test_a_metric_that_the_lift_does_not_see_is_refused():
    with pytest.raises(ValueError, match=r"so Adafactor would do nothing; take the metric identity, .*\(weighted"):
        pl.Method("adafactor", "balanced", "euler")
    pl.Method("adafactor", "weighted", "rosenbrock_euler")


def test_decay_takes_the_step_size_to_zero_along_a_half_cosine():
    objective = objective_of()
    run, theta = started(pl.Method(lift="balanced", integrator="euler", decay=True), objective, 1e-4)
    sizes = [run.h]
    for _ in range(10):
        theta = run.step(objective, theta).theta
        sizes.append(run.h)
    expected = [1e-4 * 0.5 * (1.0 + math.cos(math.pi * k / 10)) for k in range(11)]
    assert sizes == pytest.approx(expected, abs=1e-18)
    with pytest.raises(ValueError, match="RosenbrockEuler chooses its step sizes itself; decay is for"):
        pl.Method(integrator="rosenbrock_euler", decay=True)
    pl.Method(integrator={"name": "rosenbrock_euler", "adaptive": False}, decay=True)


def test_a_run_keeps_its_step_size_and_makes_a_new_flow_for_new_points():
    objective, other = objective_of(), first_points(Burgers(nu=0.1), 64, seed=9)
    run, theta = started(pl.Method(lift="balanced", integrator="rosenbrock_euler"), objective, 1e-3)
    taken = run.step(objective, theta)
    assert run.h == taken.next_h != 1e-3
    assert objective.work.jacobians == 1
    moved = objective.with_points(other)
    again = run.step(moved, taken.theta)
    assert objective.work.jacobians == 2
    assert again.value == pytest.approx(moved.value(taken.theta), rel=1e-12)  # f anew, at the new points
    assert run.h == again.next_h


def test_a_system_is_made_once_for_a_theta_and_its_solves_are_counted():
    objective = objective_of()
    flow = Flow(objective, Balanced(), Identity())
    theta = objective.blocks.read(objective.network)
    first = flow.system(theta)
    assert flow.system(theta) is first
    assert isinstance(first, Solver)
    assert objective.work == Work(jacobians=1, solves=2)
    assert flow.system(theta.clone()) is not first


def test_the_velocity_is_the_lifts_for_pairs_and_minus_the_gradient_for_the_rest():
    objective = objective_of(train_biases=True)
    flow = Flow(objective, Balanced(), Identity())
    theta = objective.blocks.read(objective.network)
    f, v = flow.velocity(theta)
    f2, g = objective.gradient(theta)
    assert f == f2
    assert len(objective.blocks.pairs) == 2
    for block in objective.blocks.blocks:
        if block in objective.blocks.pairs:
            (B, A), (gB, gA) = block.split(theta[block.slice]), block.split(g[block.slice])
            metric = Identity().weights(None, 0, B, A)
            dB, dA = Balanced().velocity(lifts.Pair(B, A, block.scale), gB, gA, metric)
            assert torch.equal(v[block.slice], torch.cat([dB.reshape(-1), dA.reshape(-1)]))
        else:
            assert torch.equal(v[block.slice], -g[block.slice])


# Presets


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


def test_the_presets_of_the_main_job_are_there():
    assert set(PRESETS) >= {
        *("lora-sgd", "scaled-gd", "odelora-euler", "odelora-heun", "odelora-rk4", "odelora-implicit"),
        *("lora-lm", "lora-adam", "lora-lbfgs", "full-adam", "full-lbfgs", "full-lm"),
    }


def test_an_unknown_preset_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"no method 'odelora-implict'; did you mean 'odelora-implicit'\?"):
        find_preset("odelora-implict")
