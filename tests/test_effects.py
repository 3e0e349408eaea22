"""Effects: pairs of variants that differ in one thing only, by what the runs of real methods say of themselves."""

import itertools
import json
import tomllib
from pathlib import Path

import pytest

from pinn_lora.cells import Case, Cell, Run, Variant
from pinn_lora.config import check_config
from pinn_lora.effects import EFFECTS, differences, effects, method_of, things
from pinn_lora.plan import plan_cases, plan_jobs
from pinn_lora.results import describe_run

STUDY = """
name = "x"
title = "X"
[[case]]
problem = "burgers"
base = { nu = "0.1/pi" }
target = { nu = "0.2/pi" }
width = 6
depth = 2
rank = 2
"""
OWN = {  # beside presets of these names
    "lora-lm-plain": 'integrator = { name = "rosenbrock_euler", acceleration = 0.0 }',
    "lora-lm-cg": 'integrator = { name = "rosenbrock_euler", acceleration = 0.0, solver = "cg" }',
    "lora-lm-strict": 'integrator = { name = "rosenbrock_euler", accept = 0.5 }',
    "lora-lm-fixed": 'integrator = { name = "rosenbrock_euler", adaptive = false }',
    "lora-lm-fixed-plain": 'integrator = { name = "rosenbrock_euler", adaptive = false, acceleration = 0.0 }',
    "full-lm-plain": 'integrator = { name = "rosenbrock_euler", acceleration = 0.0 }\ntrains = "all weights"',
    "odelora-implicit-plain": 'lift = "balanced"\nintegrator = { name = "rosenbrock_euler", acceleration = 0.0 }',
    "odelora-implicit-fixed": 'lift = "balanced"\nintegrator = { name = "rosenbrock_euler", adaptive = false }',
    "odelora-damped": 'lift = { name = "balanced", eps = 1e-2 }',
    "odelora-fixed-bs": 'lift = "balanced"\nintegrator = { name = "bogacki_shampine", adaptive = false }',
    "sgd-decay": "decay = true",
}


def variants_of(*methods: str, start: str = "") -> list[Variant]:
    """One finished run of each, as `describe_run` describes it."""
    begins = f'\nstarts = ["{start}"]' if start else ""
    text = STUDY + "".join(f'[[method]]\nname = "{name}"\n{OWN.get(name, "")}{begins}\n' for name in methods)
    config = check_config(tomllib.loads(text), where="x.toml")
    ended = {"status": "COMPLETED", "relative_l2": 0.1, "held_out_loss": 0.1, "work": 1.0, "seconds": 1.0}
    found = []
    for job in plan_jobs(config, plan_cases(config)):
        run = Run.read(Path("nowhere"), json.loads(json.dumps(describe_run(job) | ended)))
        found.append(Variant(Case("case", "A case", {}, 0.4, Path("none")), (run,), (Cell(1.0, (run,), 0.4),)))
    return found


def pairs(*methods: str) -> set[tuple[str, str, str]]:
    method = lambda label: label.partition(",")[0]  # noqa: E731
    return {(row["effect"], method(row["a"]), method(row["b"])) for row in effects(variants_of(*methods))}


IMPLICIT, ADAPTIVE, BENT, MASS, FACTORS = (effect.name for effect in EFFECTS)


@pytest.mark.parametrize(
    ("methods", "found"),
    [
        (("lora-lm-fixed", "lora-sgd"), {IMPLICIT}),
        (("odelora-implicit-fixed", "odelora-euler"), {IMPLICIT}),
        (("odelora-implicit-fixed", "odelora-rkc"), {IMPLICIT}),  # explicit, and of the same order
        (("lora-lm-plain", "lora-lm-fixed"), {ADAPTIVE}),
        (("lora-lm-plain", "lora-lm-fixed-plain"), {ADAPTIVE}),
        (("odelora-bogacki-shampine", "odelora-fixed-bs"), {ADAPTIVE}),
        (("lora-lm", "lora-lm-plain"), {BENT}),
        (("full-lm", "full-lm-plain"), {BENT}),
        (("odelora-implicit", "lora-lm"), {MASS}),
        (("odelora-implicit-plain", "lora-lm-plain"), {MASS}),
        (("odelora-implicit-fixed", "lora-lm-fixed-plain"), {MASS}),
        (("odelora-euler", "lora-sgd"), {MASS}),
        (("lora-lm", "full-lm"), {FACTORS}),
        (("lora-adam", "full-adam"), {FACTORS}),
        (("lora-lbfgs", "full-lbfgs"), {FACTORS}),
        # two things and more
        (("odelora-implicit", "lora-lm-plain"), set()),
        (("odelora-implicit-plain", "lora-lm"), set()),
        (("lora-lm", "full-lm-plain"), set()),
        (("lora-lm-plain", "full-lm"), set()),
        (("lora-lm-cg", "full-lm"), set()),
        (("lora-lm-cg", "full-lm-plain"), set()),
        (("lora-lm-cg", "lora-lm"), set()),
        (("lora-lm-strict", "lora-lm-plain"), set()),
        (("lora-lm", "lora-sgd"), set()),
        (("lora-lm-plain", "lora-sgd"), set()),
        (("lora-lm", "lora-lm-fixed"), set()),
        (("lora-lm-fixed", "lora-plus"), set()),
        (("odelora-implicit-fixed", "odelora-rk4"), set()),
        (("odelora-euler", "lora-plus"), set()),
        (("odelora-euler", "odelora-damped"), set()),
        (("odelora-euler", "scaled-gd"), set()),
        (("odelora-euler", "sgd-decay"), set()),
        (("scaled-adam", "full-adam"), set()),
        (("lora-pro-adam", "full-adam"), set()),
        (("lora-plus-adam", "full-adam"), set()),
        (("lora-adam", "full-lbfgs"), set()),
    ],
    ids=str,
)
def test_a_pair_is_one_effect_or_none(methods, found):
    """Whichever of the two comes first, the effect's own side does."""
    expected = {(name, *methods) for name in found}
    assert pairs(*methods) == pairs(*reversed(methods)) == expected


def test_of_many_methods_every_pair_differs_in_one_thing_only():
    """Counted by hand: an effect of methods that have another start is none."""
    methods = ("odelora-implicit", "lora-lm", "full-lm", "odelora-euler", "lora-sgd", "lora-adam", "full-adam", *OWN)
    rows = effects([*variants_of(*methods), *variants_of("odelora-euler", start="balanced")])
    assert not [row for row in rows if "balanced" in row["a"].partition(", ")[2]]
    told = {effect.name: {(row["a"], row["b"]) for row in rows if row["effect"] == effect.name} for effect in EFFECTS}
    assert {name: len(found) for name, found in told.items()} == {
        IMPLICIT: 3,
        ADAPTIVE: 3,
        BENT: 3,
        MASS: 6,
        FACTORS: 3,
    }


def test_differences_are_named_by_their_place():
    lm, plus, fixed, adam, scaled, full = (
        things(variant.runs[0])
        for variant in variants_of("lora-lm", "lora-plus", "lora-lm-fixed", "lora-adam", "scaled-adam", "full-adam")
    )
    assert differences(lm, lm) == set()
    assert differences(lm, fixed) == differences(fixed, lm) == {"adaptive", "bends", "integrator.adaptive"}
    assert differences(plus, fixed) == {"implicit", "integrator", "lift.ratio", "mass"}
    assert differences(adam, scaled) == {"optimizer.lift"}
    assert differences(adam, full) == {"trains", "start"}
    assert differences(lm, adam) >= {"implicit", "adaptive", "optimizer", "lift", "integrator"}


def test_a_variant_whose_runs_do_not_say_or_do_not_agree_is_in_no_pair():
    first, second = variants_of("lora-lm-fixed", "lora-sgd")
    (run,) = first.runs
    silent = Run.read(run.folder, {key: value for key, value in run.record.items() if key != "parts"})
    other = Run.read(run.folder, run.record | {"order": 2})
    assert method_of(first) == things(run) and len(effects([first, second])) == 1
    for stranger in (silent, other):
        for runs in itertools.permutations((run, stranger)):
            mixed = Variant(first.case, runs, first.cells)
            assert method_of(mixed) is None
            assert effects([mixed, second]) == []
