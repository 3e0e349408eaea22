"""The weights that pretraining gives the conditions: what they are, who uses them, and what they are good for."""

import tomllib
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.helmholtz import Helmholtz
from pinn_lora.problems.klein_gordon import KleinGordon
from pinn_lora.problems.wave import Wave
from small_problems import BOX, System

import pinn_lora as pl
from pinn_lora.chain import sd_lora
from pinn_lora.config import ConfigError, check_config
from pinn_lora.families.config import check_family
from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective
from pinn_lora.plan import plan_cases, weights_of
from pinn_lora.points import first_points
from pinn_lora.trace_weights import trace_weights
from pinn_lora.training import network_for

SHORT = {"width": 8, "depth": 2, "points": 60, "max_steps": 2}


@pytest.mark.parametrize("engine", ["jets", "functional"])
@pytest.mark.parametrize("problem", [System(), Wave(form="soft"), Burgers(nu=0.1, form="soft")], ids=repr)
def test_traces_are_those_of_the_jacobian_by_autograd(problem, engine):
    """Row by row of the weighted residuals, each by reverse mode through the other engine's rows; float64, rounding."""
    network = network_for(problem, width=6, depth=2, seed=1)
    blocks, points = Blocks(network), first_points(problem, 40, seed=2)
    theta = blocks.read(network)
    found = Objective(problem, network, blocks, points, engine=engine).term_traces(theta)
    other = {"jets": "functional", "functional": "jets"}[engine]
    for name, _, _ in problem.terms():
        alone = {term: float(term == name) for term, _, _ in problem.terms()}
        J = Objective(problem, network, blocks, points, alone, engine=other).jacobian(theta)[1]
        assert found[name] == pytest.approx(float(J.square().sum()), rel=1e-10)


def test_under_its_weight_every_condition_has_the_trace_of_the_residual():
    problem = Wave(form="soft")
    network = network_for(problem, width=6, depth=2)
    weights, traces = trace_weights(problem, network), {}
    blocks, points = Blocks(network), first_points(problem, 1000, seed=0)
    traces = Objective(problem, network, blocks, points).term_traces(blocks.read(network))
    assert list(weights) == list(traces)[1:] and len(weights) == 3
    for name, weight in weights.items():
        assert weight * traces[name] == pytest.approx(traces["residual"], rel=1e-12)


@dataclass(frozen=True)
class Met(pl.Problem):
    """A condition that the ansatz meets whatever the network is."""

    domain = BOX

    def residual(self, p, u):
        return u.t - u.xx

    def conditions(self):
        return [pl.initial(lambda p: pl.sin(p.x)), pl.dirichlet(lambda p: 0.0, on="x")]

    def ansatz(self, p, n):
        return pl.sin(p.x) + p.t * n


def test_a_condition_that_the_network_cannot_change_keeps_one():
    weights = trace_weights(Met(), network_for(Met(), width=6, depth=2))
    assert weights["initial"] == 1.0 != weights["dirichlet"]


def test_without_conditions_there_are_no_weights_and_nothing_is_evaluated(monkeypatch):
    monkeypatch.setattr(Objective, "term_traces", None)
    assert trace_weights(Burgers(nu=0.1), network_for(Burgers(nu=0.1), width=6, depth=2)) == {}


def test_a_start_that_is_not_finite_keeps_one():
    problem = Wave(form="soft")
    network = network_for(problem, width=6, depth=2)
    with torch.no_grad():
        next(iter(network.parameters())).fill_(float("nan"))
    assert set(trace_weights(problem, network).values()) == {1.0}


def test_pretraining_chooses_them_and_adapting_takes_the_base_s():
    problem, other = Wave(c=2.0, form="soft"), Wave(c=2.2, form="soft")
    base = pl.pretrain(problem, **SHORT)
    network = network_for(problem, width=8, depth=2)
    assert base.settings["weights"] == trace_weights(problem, network)
    short = {"points": 60, "max_steps": 1}
    for adapt in (partial(pl.finetune, base, other), lambda **given: sd_lora(base, [other], **given)[0]):
        assert adapt(**short).settings["weights"] == base.settings["weights"]
        assert adapt(weights={"initial": 3.0}, **short).settings["weights"] == {"initial": 3.0}
        assert adapt(weights={}, **short).settings["weights"] == {}
    assert pl.finetune(base, Wave(c=2.2), **short).settings["weights"] == {}  # it has no such terms
    assert pl.pretrain(problem, weights={}, **SHORT).settings["weights"] == {}
    assert pl.pretrain(problem, weights={"dirichlet": 2.0}, **SHORT).settings["weights"] == {"dirichlet": 2.0}


def test_they_are_what_the_loss_is_weighed_by():
    """The first loss of a run by its own weights is that of the same weights given by hand, and not that of ones."""
    problem = Wave(form="soft")
    chosen = pl.pretrain(problem, **SHORT)
    by_hand = pl.pretrain(problem, weights=chosen.settings["weights"], **SHORT)
    plain = pl.pretrain(problem, weights={}, **SHORT)
    assert [r.loss for r in chosen.history] == [r.loss for r in by_hand.history]
    assert chosen.history[0].loss > 2 * plain.history[0].loss


def test_a_saved_base_keeps_them(tmp_path):
    base = pl.pretrain(Wave(form="soft"), **SHORT)
    again = pl.Solution.load(base.save(tmp_path / "base"))
    assert again.weights_for(Wave(c=3.0, form="soft")) == base.settings["weights"] != {}


STUDY = """
name = "s"
title = "s"
seeds = [0]
[[case]]
problem = "wave"
base = { form = "soft" }
target = { c = 2.2, form = "soft" }
WEIGHTS
[[method]]
name = "lora-lm"
"""


def test_a_config_chooses_them_by_name():
    found = {}
    for told in ('weights = "traces"', "weights = { dirichlet = 2.0 }", ""):
        config = check_config(tomllib.loads(STUDY.replace("WEIGHTS", told)), where="s.toml")
        [case] = plan_cases(config)
        found[told] = weights_of(case.config, case.target), case.base_id
    assert [weights for weights, _ in found.values()] == [None, {"dirichlet": 2.0}, {}]
    assert len({base for _, base in found.values()}) == 3  # each weighs its base's loss, too
    family = {"name": "f", "title": "f", "problem": "wave", "base": {"form": "soft"}, "members": [{"c": 2.2}]}
    chosen = [check_family({**family, **given}, where="f.toml") for given in ({"weights": "traces"}, {})]
    assert [config.training["weights"] for config in chosen] == [None, {}]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ('"trace"', "case 1, weights = 'trace': give a table or 'traces'"),
        ("3", "case 1, weights = 3: give a table or 'traces'"),
        ('{ dirichlet = "a" }', "case 1, weights.dirichlet = 'a': give a number"),
    ],
)
def test_what_is_no_choice_of_weights_is_refused_in_one_sentence(told, said):
    with pytest.raises(ConfigError) as refused:
        check_config(tomllib.loads(STUDY.replace("WEIGHTS", f"weights = {told}")), where="s.toml")
    assert str(refused.value) == f"s.toml: {said}"


def test_no_condition_weighs_less_than_one():
    """Helmholtz' equation changes less than its boundary at the start: without the bound its weights would be 0.37."""
    problem = Helmholtz(form="soft")
    network = network_for(problem)
    blocks, points = Blocks(network), first_points(problem, 1000, seed=0)
    traces = Objective(problem, network, blocks, points).term_traces(blocks.read(network))
    assert traces["dirichlet_1"] > 2 * traces["residual"]
    assert set(trace_weights(problem, network).values()) == {1.0}


def test_a_condition_is_not_left_behind():
    """Klein-Gordon with its conditions in the loss: 80 steps on 800 points end at a relative L2 of 1.0e-3, with weights of one
    at 6.8e-3; half is the margin."""
    options = {"width": 20, "depth": 3, "points": 800, "max_steps": 80}
    problem = KleinGordon(form="soft")
    chosen, plain = (pl.pretrain(problem, weights=weights, **options).relative_l2() for weights in (None, {}))
    assert chosen < 0.5 * plain
