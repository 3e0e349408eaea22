"""Every numeric option of every file: what lies outside of its range is refused by one sentence, what lies inside runs."""

import dataclasses
import importlib
import math
import re

import numpy as np
import pytest
import torch
from lift_oracles import metric_of, pair_and_gradients
from small_flows import fit_flow
from small_objective import objective_for, started

from pinn_lora import catalog, initializers, integrators, lifts, metrics, optimizers, ranges, solvers
from pinn_lora.initializers import Probe, Site
from pinn_lora.metrics import Energies
from pinn_lora.ranges import Range, check_ranges


def run_optimizer(rule):
    objective = objective_for(rule)
    run, theta = started(rule, objective, step_size=1e-3, max_steps=3)
    for _ in range(3):
        theta = run.step(objective, theta).theta


def run_lift(lift):
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    lift.velocity(pair, gB, gA, metric_of(lift, pair))


def run_metric(metric):
    pair, G, _, _ = pair_and_gradients((5, 4, 2))
    history = metric.observe(None, 1, Energies(G.square().sum(1), G.square().sum(0)))
    metric.weights(history, 1, pair.B, pair.A)


def run_integrator(integrator):
    flow, theta = fit_flow()
    for _ in range(2):
        theta = integrator.step(flow, theta, 1e-3).theta


def run_initializer(start):
    generator = torch.Generator().manual_seed(2)
    J = torch.randn(20, 6, 5, generator=generator, dtype=torch.float64)
    start.factors(Site(J[0], 2, 1.0, generator, Probe(J[1], J)))


def run_solver(solver):
    pytest.fail("a solver has settings now: use them here")


FOLDERS = {
    optimizers: run_optimizer,
    lifts: run_lift,
    metrics: run_metric,
    integrators: run_integrator,
    initializers: run_initializer,
    solvers: run_solver,
}


def is_number(field: dataclasses.Field) -> bool:
    """Whether it is declared as int or float, None beside them or not."""
    words = set(re.findall(r"\w+", field.type if isinstance(field.type, str) else field.type.__name__))
    return bool(words & {"int", "float"}) and words <= {"int", "float", "None"}


def numeric_options():
    """Class, field and use of every numeric field of every dataclass that a file of the folders defines."""
    for folder, run in FOLDERS.items():
        for stem in catalog.names(folder):
            module = importlib.import_module(f"{folder.__name__}.{stem}")
            for cls in vars(module).values():
                if dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__:
                    for field in filter(is_number, dataclasses.fields(cls)):
                        yield pytest.param(cls, field.name, run, id=f"{module.__name__[10:]}-{field.name}")


OPTIONS = list(numeric_options())


def refused(cls, name, value) -> str:
    """What the sentence says that the value must be."""
    with pytest.raises(ValueError) as raised:
        cls(**{name: value})
    stem = cls.__module__.rpartition(".")[2]
    match = re.fullmatch(rf"{stem}: {name} is {re.escape(repr(value))}; it must be (.+)", str(raised.value))
    assert match, str(raised.value)
    return match[1]


def edges(said: str) -> tuple[list, list]:
    """The values next to the bounds that a sentence names, inside and outside of them."""
    whole, inside, outside = said.startswith("a whole number"), [], []
    for word, text in re.findall(r"(at least|above|at most|below) ([^\s,]+)", said):
        bound = int(text) if whole else float(text)
        inward = 1 if word in ("at least", "above") else -1
        near = [bound + k * inward if whole else math.nextafter(bound, k * inward * math.inf) for k in (-1, 1)]
        closed = word in ("at least", "at most")
        inside.append(bound if closed else near[1])
        outside += [near[0] if closed else bound, bound - inward, bound - 1000 * inward]
    if whole:
        outside += [value + 0.5 for value in inside]
    return inside, outside


@pytest.mark.parametrize(("cls", "name", "run"), OPTIONS)
def test_what_is_outside_is_refused_in_one_sentence_that_says_the_truth(cls, name, run):
    said = refused(cls, name, math.nan)
    inside, outside = edges(said)
    assert inside or said in ("finite", "a whole number")
    for value in (math.inf, -math.inf, 10**400, "1", True, *outside):
        assert refused(cls, name, value) == said
    if not re.search("at least|above", said):
        assert getattr(cls(**{name: -1}), name) == -1


@pytest.mark.parametrize(("cls", "name", "run"), OPTIONS)
def test_what_is_inside_runs(cls, name, run):
    """To the edges, and far out where there is none: no division by zero, and nothing that a library refuses."""
    said = refused(cls, name, math.nan)
    allowed = described(said)
    for value in [*edges(said)[0], 2 if allowed.whole else 1e100]:
        if value in allowed:
            run(cls(**{name: value}))


def described(said: str) -> Range:
    """The range that a sentence tells of."""
    words = {"at least": "ge", "above": "gt", "at most": "le", "below": "lt"}
    bounds = re.findall(r"(at least|above|at most|below) ([^\s,]+)", said)
    return Range(**{words[word]: float(text) for word, text in bounds}, whole=said.startswith("a whole number"))


@pytest.mark.parametrize("shared", [value for value in vars(ranges).values() if isinstance(value, Range)], ids=str)
def test_the_words_are_those_of_the_range(shared):
    assert described(str(shared)) == shared


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Range(), "finite"),
        (Range(whole=True), "a whole number"),
        (Range(ge=0.5), "at least 0.5 and finite"),
        (Range(gt=0, le=1), "above 0 and at most 1"),
        (Range(ge=1, lt=9, whole=True), "a whole number, at least 1 and below 9"),
    ],
    ids=str,
)
def test_a_range_in_words(given, said):
    assert str(given) == said


def test_numbers_of_numpy_are_numbers():
    assert np.float32(0.5) in Range(gt=0, lt=1) and np.int64(3) in Range(ge=3, whole=True)
    assert np.float64(3.0) not in Range(ge=3, whole=True) and np.bool_(True) not in Range(ge=0)


def test_the_first_field_outside_is_named():
    @dataclasses.dataclass
    class Mine:
        a: float = 1.0
        b: float = -2.0
        c: float = -3.0

    with pytest.raises(ValueError, match=r"^test_ranges: b is -2.0; it must be at least 0 and finite$"):
        check_ranges(Mine(), a=Range(ge=0), b=Range(ge=0), c=Range(ge=0))
