"""What a study's folder may be continued with: other words or jobs, and more seeds, cases, methods, starts or step sizes."""

from __future__ import annotations

from typing import Any

from pinn_lora.config import StudyConfig
from pinn_lora.plan import methods_of, starts_of, step_sizes_of

FREE = {"title", "description", "comparison", "jobs"}  # no run is another for them


def meaning(config: StudyConfig) -> dict[str, Any]:
    """All that decides which runs a study has and what their numbers mean, each by the name that a sentence gives it."""
    found = config.model_dump(exclude={*FREE, "case", "method"})
    found |= {
        "the first of seeds": config.seeds[0],
        "cases": list(range(1, len(config.case) + 1)),
    }  # the first one tunes
    for number, case in enumerate(config.case, start=1):
        methods = methods_of(config, number)
        about = case.model_dump() | {"methods": [method.name for method in methods]}
        for method in methods:
            told = method.model_dump(exclude={"name", "cases"})
            told |= {"starts": starts_of(method), "step_sizes": step_sizes_of(method), "trains": method.preset().trains}
            about |= {f"{method.name}, {key}": value for key, value in told.items()}
        found |= {f"case {number}, {key}": value for key, value in about.items()}
    return found


def changed(held: dict[str, Any], given: dict[str, Any]) -> str | None:
    """The first thing that is another in a study that goes on, with both values; None where there is only more in the lists."""
    for key, before in held.items():
        now = given[key]  # it is there: a list of cases or methods that lacks one comes first
        more = isinstance(before, list) and isinstance(now, list) and all(entry in now for entry in before)
        if now != before and not more:
            return f"{key} was {before!r} and is {now!r}"
    return None
