"""The table of all methods, written from the code: docs/methods.md is its output."""

from __future__ import annotations

import inspect
from typing import Any

from pinn_lora.flow import Method
from pinn_lora.presets import PRESETS, Preset

HEAD = """# Methods

Every preset, from `pinn-lora list --markdown`. Formulas: the files' docstrings, and [mathematics.md](mathematics.md).
A flow is three choices (metric, lift, integrator); a whole optimizer keeps history in the factors' coordinates or is no flow.
*Keeps*: what the exact flow conserves, or the steps of a whole optimizer. *A step costs*: evaluations at all points, and the
method's own work a layer (m x n, rank r; P unknowns). *Reconstructed*: the paper's full text was not at hand; the formulas
follow from its abstract, are checked against brute force, and may differ from the paper.

| preset | what | from | metric | lift | integrator | trains | keeps | a step costs | file |
|---|---|---|---|---|---|---|---|---|---|
"""


def methods_markdown() -> str:
    """docs/methods.md."""
    return HEAD + "\n".join(_row(name, preset) for name, preset in PRESETS.items()) + "\n"


def _row(name: str, preset: Preset) -> str:
    method, whole = preset.method, preset.trains == "all weights"
    source = preset.source + (", *reconstructed*" if preset.reconstructed else "")
    if isinstance(method, Method):
        # on all weights there are no pairs to lift
        files = [method.integrator] if whole else [method.lift, method.integrator]
        metric, lift = ("", "") if whole else (_stem(method.metric), _stem(method.lift))
        integrator = _stem(method.integrator)
        own = "" if whole else method.lift.cost
        keeps, costs = (
            "" if whole else method.lift.conserves,
            ", ".join(part for part in (method.integrator.cost, own) if part),
        )
    else:
        files, metric, integrator = [method], _stem(getattr(method, "metric", None)), "whole"
        lift = _stem(getattr(method, "lift", None))
        keeps, costs = method.conserves, method.cost
    links = ", ".join(f"[{_stem(part)}]({_path(part)})" for part in files)
    cells = (f"`{name}`", preset.description, source, metric, lift, integrator, preset.trains, keeps, costs, links)
    return "| " + " | ".join(cells) + " |"


def _stem(part: Any) -> str:
    return "" if part is None else type(part).__module__.rpartition(".")[2]


def _path(part: Any) -> str:
    return "../" + inspect.getmodule(type(part)).__name__.replace(".", "/") + ".py"  # type: ignore[union-attr]
