"""Folders as lists: every file of a folder but its __init__.py is one implementation, and its stem is its name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import sys
from types import ModuleType
from typing import Any


def choose(value: str, choices: list[str] | tuple[str, ...], *, what: str) -> str:
    """`value` where it is one of `choices`; else a ValueError that names it, the nearest and the valid ones."""
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no {what} {value!r}{hint} (choices: {', '.join(choices)})")


def names(package: ModuleType) -> list[str]:
    """The implementations that the folder of `package` holds."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find(package: ModuleType, contract: type, name: str) -> type:
    """The class that `name`.py of the package defines under `contract`."""
    choose(name, names(package), what=contract.__name__.lower())
    module = importlib.import_module(f"{package.__name__}.{name}")
    found = [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and issubclass(member, contract) and member.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {contract.__name__}, it defines {len(found)}")
    return found[0]


def build(package: ModuleType, contract: type, spec: Any) -> Any:
    """An instance from an instance, a name, or a mapping of a name and its options."""
    if isinstance(spec, contract):
        return spec
    options = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = options.pop("name", None)
    cls = find(package, contract, name)
    fields = {field.name: type(field.default) for field in dataclasses.fields(cls)}
    for option, value in options.items():
        check_option(option, value, fields, of=name)
    return cls(**options)


def stem(part: Any) -> str:
    """The name under which `build` finds a part: that of its file."""
    return type(part).__module__.rpartition(".")[2]


def spelled(part: Any) -> dict[str, Any]:
    """A part's name and all of its options, parts among them likewise: plain values, of which `build` makes it again."""
    options = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return {"name": stem(part)} | {
        option: spelled(value) if dataclasses.is_dataclass(value) else value for option, value in options.items()
    }


def check_option(option: str, value: Any, kinds: dict[str, type], *, of: str) -> None:
    """ValueError where `of` has no such option, or one of another type than the value's."""
    kind = kinds[choose(option, list(kinds), what=f"option of {of}")]
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if kind in (bool, int, float) and not fits:
        raise ValueError(f"option {option} of {of} is {value!r}; it must be of type {kind.__name__}")


def describe(package: ModuleType, contract: type) -> dict[str, str]:
    """Name of every implementation, and the first line of its file's docstring, or of its own where the file has none."""
    found = {}
    for name in names(package):
        made = find(package, contract, name)
        found[name] = (sys.modules[made.__module__].__doc__ or made.__doc__ or "").strip().splitlines()[0]
    return found
