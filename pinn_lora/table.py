"""The tables of all methods and of what they are made from, written from the code: docs/methods.md is their output."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pinn_lora import chain, initializers, integrators, lifts, metrics, optimizers, rslora, solvers, structure
from pinn_lora.catalog import find, names
from pinn_lora.initializers import Initializer
from pinn_lora.integrators import Integrator
from pinn_lora.lifts import Lift
from pinn_lora.lifts.chain_rule import ChainRule
from pinn_lora.method import Method
from pinn_lora.metrics import Metric
from pinn_lora.optimizers import Optimizer
from pinn_lora.presets import PRESETS, Preset
from pinn_lora.solvers import Solver

HEAD = """# Methods

Every preset, from `pinn-lora list --markdown`. Formulas: the files' docstrings, and [mathematics.md](mathematics.md).
A flow is three choices (metric, lift, integrator); a whole optimizer keeps history in the factors' coordinates or is no flow.
*Keeps*: what the exact flow conserves, or the steps of a whole optimizer. *A step costs*: evaluations at all points, and the
method's own work a layer beyond O(P) (m x n, rank r; P unknowns; *G itself*: the gradient of W, m x n, is made, and not the
factors' alone). *Reconstructed*: the paper's full text was not at hand; the formulas follow from its abstract, are checked
against brute force, and may differ from the paper. Numbers such as 2106.09685 are arXiv's.

| preset | what | from | metric | lift | integrator | trains | keeps | a step costs | file |
|---|---|---|---|---|---|---|---|---|---|
"""

PARTS = """
## Parts

Every file of the folders, in each of its variants: what a method, or the `[[method]]` of a study, can be made from.
*Implicit*: a lift with a mass, which an implicit integrator can take.

| kind | part | what | from | keeps | costs | implicit | in presets | file |
|---|---|---|---|---|---|---|---|---|
"""

BESIDE = """
## Beside the presets

What chooses ranks and layers, what trains one adapter after another, and the scale of an adapter.

| name | what | from | file |
|---|---|---|---|
"""

MOST = 7  # presets that a part's row names; of more it says how many

FOLDERS: dict[ModuleType, type] = {
    metrics: Metric,
    lifts: Lift,
    integrators: Integrator,
    solvers: Solver,
    optimizers: Optimizer,
    initializers: Initializer,
}


def methods_markdown() -> str:
    """docs/methods.md."""
    rows = [_row(name, preset) for name, preset in PRESETS.items()]
    parts = [
        _line(_part_cells(contract, name, part))
        for folder, contract in FOLDERS.items()
        for name in names(folder)
        for part in variants(find(folder, contract, name))
    ]
    beside = [_line(_cells_beside(thing)) for module in (structure, chain, rslora) for thing in published(module)]
    return "".join(head + "\n".join(lines) + "\n" for head, lines in ((HEAD, rows), (PARTS, parts), (BESIDE, beside)))


def _row(name: str, preset: Preset) -> str:
    method, whole = preset.method, preset.trains == "all weights"
    source = preset.source + (", *reconstructed*" if preset.reconstructed else "")
    # on all weights there are no pairs to lift
    metric, lift = (None, None) if whole else (getattr(method, "metric", None), getattr(method, "lift", None))
    if isinstance(method, Method):
        files, integrator = [lift, method.integrator], _stem(method.integrator)
        keeps, costs = ("", method.integrator.cost) if whole else (method.lift.conserves, method.cost)
    else:
        files, integrator = [method, None if isinstance(lift, ChainRule) else lift], "whole"
        keeps, costs = method.conserves, method.cost
    links = ", ".join(_link(part) for part in files if part is not None)
    words = (preset.description, source, _stem(metric), _stem(lift), integrator, preset.trains, keeps, costs)
    return _line((f"`{name}`", *words, links))


def variants(cls: type) -> Iterator[Any]:
    """The part with its defaults, then with every other choice of its options that are choices; of solvers, which are made at
    a theta, the class."""
    if issubclass(cls, Solver):
        yield cls
        return
    default = cls()
    yield default
    for name, choices in _choices(cls).items():
        yield from (cls(**{name: choice}) for choice in choices if choice != getattr(default, name))


def _choices(cls: type) -> dict[str, tuple[Any, ...]]:
    """The options of a part that are a choice between names."""
    hints = get_type_hints(cls)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _part_cells(contract: type, name: str, part: Any) -> tuple[str, ...]:
    told = [name]
    if not isinstance(part, type):
        default = type(part)()
        told += [f"{key} = {getattr(part, key)}" for key in _choices(type(part)) if part != default]
    implicit = getattr(part, "implicit", getattr(part, "has_mass", False))
    costs, keeps = getattr(part, "cost", ""), getattr(part, "conserves", "")
    if getattr(part, "needs_probe", False):
        costs = "1 Jacobian of a batch, once"
    used = [f"`{preset}`" for preset, held in PRESETS.items() if is_among(part, *parts_of(held))]
    shown = ", ".join(used) if len(used) <= MOST else f"{len(used)} presets"
    what = (inspect.getdoc(inspect.getmodule(_class(part))) or "").partition("\n")[0]
    source = source_of(_class(part))
    yes = "yes" if implicit else ""
    return contract.__name__.lower(), ", ".join(told), what, source, keeps, costs, yes, shown, _link(part)


def parts_of(preset: Preset) -> list[Any]:
    """What a preset is made of: its method, and where it trains factors its start and what it lifts by."""
    method = preset.method
    found: list[Any] = [method, getattr(method, "integrator", None)]
    if preset.trains == "factors":
        found += [getattr(method, "metric", None), getattr(method, "lift", None)]
        found += [find(initializers, Initializer, preset.initializer)()] if preset.initializer else []
    return found


def is_among(part: Any, *others: Any) -> bool:
    """Whether one of the others is this part, in this variant."""
    kind = [other for other in others if type(other) is type(part)]
    return any(all(getattr(part, key) == getattr(other, key) for key in _choices(type(part))) for other in kind)


def published(module: ModuleType) -> list[Any]:
    """The functions and classes of a module that say where they are from."""
    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == module.__name__]
    return [thing for thing in own if source_of(thing)]


def _cells_beside(thing: Any) -> tuple[str, ...]:
    return f"`pl.{thing.__name__}`", _sentence(_told(thing)), source_of(thing), _link(thing)


def source_of(thing: Any) -> str:
    """What follows "Source:" in a docstring, to the end of the sentence."""
    return _sentence(_told(thing).partition("Source: ")[2])


def _sentence(text: str) -> str:
    """The first sentence of a text, without its full stop; "et al." ends none."""
    return re.split(r"(?<!\bal)\.(?: |$)", text, maxsplit=1)[0]


def _told(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _class(part: Any) -> Any:
    return part if isinstance(part, type) or inspect.isfunction(part) else type(part)


def _stem(part: Any) -> str:
    return "" if part is None else _class(part).__module__.rpartition(".")[2]


def _link(part: Any) -> str:
    return f"[{_stem(part)}](../{_class(part).__module__.replace('.', '/')}.py)"
