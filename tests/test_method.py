"""Methods: three parts by name, by options or by instance, and what does not go together."""

import dataclasses
import math
import re
from typing import get_args

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_objective import objective_of, started

import pinn_lora as pl
from pinn_lora import catalog, integrators, lifts, metrics, optimizers, plan, solvers
from pinn_lora.flow import Flow
from pinn_lora.integrators import Integrator
from pinn_lora.integrators.rosenbrock_euler import RosenbrockEuler
from pinn_lora.lifts import Lift
from pinn_lora.lifts.balanced import Balanced
from pinn_lora.lifts.lora_pro import Gauge
from pinn_lora.metrics import Metric
from pinn_lora.metrics.identity import Identity
from pinn_lora.optimizers import Optimizer
from pinn_lora.optimizers.altlora import AltLoRA
from pinn_lora.points import first_points
from pinn_lora.presets import preset_of

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


@pytest.mark.parametrize(("metric", "lift", "integrator"), TRIPLES, ids=str)
def test_every_triple_takes_steps_that_lower_the_loss(metric, lift, integrator):
    method = pl.Method(metric, lift, integrator)
    objective = objective_of(train_biases=True)
    run, theta = started(method, objective, step_size=1e-4, max_steps=10)
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
        ({"decay": "yes"}, "decay is 'yes'; it must be true or false"),
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
        run, theta = started(pl.Method(lift=Massless(), integrator=integrator), objective, step_size=1e-4, max_steps=10)
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


def undamped_lifts() -> list[Lift]:
    """Every lift that has a damping, without it."""
    found = [catalog.find(lifts, Lift, name) for name in catalog.names(lifts)]
    return [kind(eps=0.0) for kind in found if "eps" in {field.name for field in dataclasses.fields(kind)}]


def undamped_optimizers() -> list[Optimizer]:
    """Every optimizer that follows a lift, with one without its damping."""
    found = []
    for name in catalog.names(optimizers):
        kind = catalog.find(optimizers, Optimizer, name)
        fields = {field.name for field in dataclasses.fields(kind)}
        off = {"lift": Balanced(0.0), "damping": 0.0, "eps": 0.0}
        for option in [option for option in off if option in fields]:
            rule, objective = (
                kind(**{option: off[option]}),
                objective_of(initializer=kind.initializer.replace("zero_b", "balanced")),
            )
            try:
                run, _ = started(rule, objective, step_size=1e-4, max_steps=9)
            except ImportError:  # of an extra
                continue
            if hasattr(run, "flows") and run.flows.lift.undamped:
                found.append(rule)
    return found


UNDAMPED = [*(pl.Method(lift=lift) for lift in undamped_lifts()), *undamped_optimizers()]


def zeroed(objective, theta: torch.Tensor, factor: int) -> torch.Tensor:
    """theta with one factor of every pair zero."""
    found = theta.clone()
    for block in objective.blocks.pairs:
        block.split(found[block.slice])[factor].zero_()
    return found


@pytest.mark.parametrize("rule", UNDAMPED, ids=str)
def test_a_run_without_damping_is_refused_from_a_start_of_lower_rank(rule):
    assert {"AltLoRA", "LoRAProAdamW", "Riemannian", "Adam", "Momentum"} <= {type(rule).__name__ for rule in UNDAMPED}
    message = r"^\w+\(.*eps=0.0\) needs factors of full rank, and B of 'layers.1' has rank 0 of 2; take its damping above 0, or"
    one = isinstance(rule, pl.Method) and rule.lift.undamped == ("A",)
    for start in () if one else ("zero_b", "orthogonal"):
        with pytest.raises(ValueError, match=message):
            started(rule, objective_of(initializer=start), step_size=1e-4, max_steps=9)
    with pytest.raises(ValueError, match=message.replace("B of", "A of")):
        started(rule, objective_of(initializer="zero_a"), step_size=1e-4, max_steps=9)
    started(rule, objective_of(initializer="balanced"), step_size=1e-4, max_steps=9)


def test_a_config_says_so_before_anything_is_trained():
    network, preset = pl.MLP(Burgers.domain, width=5, depth=3), preset_of(pl.Method(lift=Balanced(0.0)))
    with pytest.raises(ValueError, match="needs factors of full rank"):
        plan.check_start(preset, network, start="zero_b", rank=2)
    with pytest.raises(
        ValueError, match=r"OneFactor\(side='A'.* moves no factor from this start, where B is zero; take one"
    ):
        plan.check_start(
            preset_of(pl.Method(lift={"name": "one_factor", "side": "A"})), network, start="zero_b", rank=2
        )
    plan.check_start(preset, network, start="balanced", rank=2)


@pytest.mark.parametrize("factor", [0, 1], ids=["B", "A"])
@pytest.mark.parametrize("rule", UNDAMPED, ids=str)
def test_a_gram_matrix_that_becomes_singular_is_a_step_that_is_not_finite_and_no_exception(rule, factor):
    """As a run that diverges is recorded."""
    objective = objective_of()
    run, theta = started(rule, objective, step_size=1e-4, max_steps=9)
    theta = run.step(objective, theta).theta
    lost = isinstance(rule, pl.Method) and "BA"[factor] not in rule.lift.undamped
    assert bool(run.step(objective, zeroed(objective, theta, factor)).theta.isfinite().all()) == lost


def masses_and_integrators():
    for lift in (lift for kind in undamped_lifts() for lift in variants(kind)):
        for name in catalog.names(integrators):
            kind = catalog.find(integrators, Integrator, name)
            if not kind.implicit:
                yield lift, {"name": name}
            elif lift.has_mass:
                yield from ((lift, {"name": name, "solver": solver}) for solver in catalog.names(solvers))


def variants(lift: Lift) -> list[Lift]:
    """With every option that a lift of two names has."""
    return [lift, *(dataclasses.replace(lift, gauge=gauge) for gauge in get_args(Gauge) if hasattr(lift, "gauge"))]


@pytest.mark.parametrize("factor", [0, 1], ids=["B", "A"])
@pytest.mark.parametrize(("lift", "integrator"), [*masses_and_integrators()], ids=str)
def test_no_integrator_and_no_solver_raises_or_waits_at_a_singular_gram_matrix(lift, integrator, factor):
    """A step that is not finite, or one that moves: least squares by J, where M is semidefinite, needs no inverse. Never a step
    refused, as no smaller one helps."""
    objective = objective_of()
    run, theta = started(pl.Method(lift=lift, integrator=integrator), objective, step_size=1e-4, max_steps=9)
    theta = zeroed(objective, theta, factor)
    taken = run.step(objective, theta)
    assert taken.accepted
    if integrator.get("solver") != "cholesky" and "BA"[factor] in lift.undamped:
        assert not taken.theta.isfinite().all()


def test_what_rounding_leaves_of_a_singular_matrix_is_not_finite_either():
    """Where the velocity still is: AltLoRA's momentum by the other basis, and the inner matrix of conjugate gradients."""
    objective = objective_of()
    run, theta = started(AltLoRA(eps=0.0), objective, step_size=1e-4, max_steps=9)
    near = torch.ones(2, 5, dtype=torch.float64)
    assert not run._momentum(("x", "A"), torch.zeros(5, 2).double(), torch.zeros(2, 2).double(), near).isfinite().any()
    flow = Flow(objective, Balanced(), Identity())
    system = flow.system(theta, "cg")
    assert system.solve(1.0).isfinite().all()
    assert not dataclasses.replace(system, core=-1e9 * system.core).solve(1.0).isfinite().any()


def test_decay_takes_the_step_size_to_zero_along_a_half_cosine():
    objective = objective_of()
    run, theta = started(
        pl.Method(lift="balanced", integrator="euler", decay=True), objective, step_size=1e-4, max_steps=10
    )
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
    run, theta = started(
        pl.Method(lift="balanced", integrator="rosenbrock_euler"), objective, step_size=1e-3, max_steps=10
    )
    taken = run.step(objective, theta)
    assert run.h == taken.next_h != 1e-3
    assert objective.work.jacobians == 1
    moved = objective.with_points(other)
    again = run.step(moved, taken.theta)
    assert objective.work.jacobians == 2
    assert again.value == pytest.approx(moved.value(taken.theta), rel=1e-12)  # f anew, at the new points
    assert run.h == again.next_h
