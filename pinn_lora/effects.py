"""What two variants differ in, and the effects that a report keeps apart: pairs that differ in one thing only.

Everything is read from what the runs say of themselves: their traits and their parts with all options, as `results` wrote
them. Nothing here knows a method, a lift or an option by its name but those in which an effect lies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pinn_lora.cells import Row, Run, Variant, at, end, median

TRAITS = ("trains", "start", "implicit", "adaptive", "bends", "order", "mass")


@dataclass(frozen=True)
class Effect:
    """Two sides of one choice. `first` and `second` are traits that the sides have; `differ` is all in which they differ."""

    name: str
    left: str
    right: str
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    differ: frozenset[str]

    def holds(self, a: Row, b: Row) -> bool:
        """Whether two runs of these things are its two sides, equal in all else."""
        sides = ((a, self.first), (b, self.second))
        return all(side[trait] == value for side, asked in sides for trait, value in asked.items()) and (
            differences(a, b) == self.differ
        )


EFFECTS = (
    Effect(
        "implicit or explicit, at a fixed step size",
        "implicit",
        "explicit",
        {"implicit": True},
        {"implicit": False, "adaptive": False},
        frozenset({"implicit", "integrator"}),
    ),
    Effect(
        "adaptive or fixed step size",
        "adaptive",
        "fixed",
        {"adaptive": True},
        {"adaptive": False},
        frozenset({"adaptive", "integrator.adaptive"}),
    ),
    Effect(
        "bent or straight steps",
        "bent",
        "straight",
        {"bends": True},
        {"bends": False},
        frozenset({"bends", "integrator.acceleration"}),
    ),
    Effect(
        "balanced mass or identity",
        "balanced mass",
        "identity mass",
        {"mass": "balanced"},
        {"mass": "identity"},
        frozenset({"mass", "lift"}),
    ),
    Effect(
        "factors or all weights",
        "factors",
        "all weights",
        {"trains": "factors"},
        {"trains": "all weights"},
        frozenset({"trains", "start"}),  # all weights have none
    ),
)


def things(run: Run) -> Row | None:
    """All that a run's method is: its traits, its parts with their options, and which of these are idle. None where the run
    does not say, as those of older versions do not."""
    if "parts" not in run.record:
        return None
    return {trait: run.record.get(trait) for trait in TRAITS} | run.record["parts"] | {"idle": run.record["idle"]}


def differences(a: Row, b: Row) -> set[str]:
    """In which things two runs differ: "implicit", "lift" where two parts have different names, "lift.eps" where one option of
    the same part differs. What does nothing in one of them is no difference."""
    found = _differences(a | {"idle": None}, b | {"idle": None}, "")
    return found - {*a["idle"], *b["idle"]}


def _differences(a: Row, b: Row, place: str) -> set[str]:
    found = set[str]()
    for key in a.keys() | b.keys():
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict) and x.get("name") == y.get("name"):
            found |= _differences(x, y, f"{place}{key}.")
        elif x != y:
            found.add(place + key)
    return found


def method_of(variant: Variant) -> Row | None:
    """What all runs of a variant say of their method; None where one does not say, or says something else."""
    told = [things(run) for run in variant.runs]
    return told[0] if all(one == told[0] for one in told) else None


def effects(variants: Sequence[Variant]) -> list[Row]:
    """Every pair of variants of a case that differs in one of the effects and in nothing else."""
    told = [(variant, method) for variant in variants if (method := method_of(variant))]
    rows = []
    for effect in EFFECTS:
        for (a, first), (b, second) in itertools.permutations(told, 2):
            if effect.holds(first, second):
                row = {"case": a.case.id, "effect": effect.name, "left": effect.left, "right": effect.right}
                rows.append(row | compare(a, b))
    return rows


def ratio(a: float, b: float) -> float:
    """a / b where infinite means diverged: nan when both are, or when one is missing."""
    if math.isnan(a) or math.isnan(b) or (math.isinf(a) and math.isinf(b)):
        return math.nan
    return a / b if b else math.inf


def compare(a: Variant, b: Variant) -> Row:
    """Tuned medians of two variants at the end, and at the largest work and seconds that both have reached."""
    seeds = [len(variant.tuned.runs) if variant.tuned else 0 for variant in (a, b)]
    row: Row = {"a": a.label, "b": b.label, "seeds": min(seeds)}
    row |= {"a_at_end": a.error, "b_at_end": b.error, "ratio_at_end": ratio(a.error, b.error)}
    for axis in ("work", "seconds"):
        budget = min(end(a, axis), end(b, axis)) if min(seeds) else math.nan
        left, right = (median(at(variant, axis, budget)) for variant in (a, b))
        row |= {axis: budget, f"a_at_{axis}": left, f"b_at_{axis}": right, f"ratio_at_{axis}": ratio(left, right)}
    refused = [variant for variant in (a, b) if not variant.tuned]
    return row | {"note": "; ".join(f"{variant.label} refused: {variant.runs[0].message}" for variant in refused)}
