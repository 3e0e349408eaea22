"""A problem from a file of one's own, wherever it lies."""

from __future__ import annotations

import copyreg
import dataclasses
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pinn_lora.places import ProblemError, place, place_in, sentence
from pinn_lora.problem import Problem


def problem_in_file(path: str | Path) -> type[Problem]:
    """The one Problem that a .py file defines: the same class as long as the file is not changed.

    Its problems can be sent to other processes, which import the file for themselves. ProblemError, with file and line, where
    the file is not there, cannot be imported, or defines none or several.
    """
    path = Path(path)
    if not path.is_file():
        raise ProblemError(f"there is no problem file {path}")
    return _import_problem(path.resolve(), path.stat().st_mtime_ns)


def problem_hashes(names: Iterable[str], folder: str | Path) -> dict[str, str]:
    """SHA-256 of each file among the names of problems; the paths are taken from `folder`."""
    files = sorted({name for name in names if name.endswith(".py")})
    return {name: hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() for name in files}


@lru_cache(maxsize=64)
def _import_problem(path: Path, _changed: int) -> type[Problem]:
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"  # two folders may hold files of one name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # leaves no __pycache__ in the user's folder
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ProblemError(f"{place_in(error, {str(path)}) or path}: {sentence(error)}") from None
    found = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Problem) and c.__module__ == name]
    if len(found) != 1:
        named = ", ".join(f"{c.__name__} in line {inspect.getsourcelines(c)[1]}" for c in found)
        more = named or "write class Mine(pl.Problem)"
        raise ProblemError(
            f"{place(str(path), 1)}: it must define exactly one Problem; it defines {len(found)}: {more}"
        )
    copyreg.pickle(found[0], partial(_sent, path))  # type: ignore[arg-type]
    return found[0]


def _sent(path: Path, problem: Any) -> tuple[Any, ...]:
    """How a problem of a file goes to another process."""
    return _received, (
        path,
        {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem) if field.init},
    )


def _received(path: Path, coefficients: dict[str, Any]) -> Problem:
    return problem_in_file(path)(**coefficients)
