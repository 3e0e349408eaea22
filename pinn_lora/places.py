"""Where something stands in a user's own file, "fisher.py, line 14": for the one sentence that says what is wrong there."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).parent
OURS = (
    AttributeError,
    NotImplementedError,
    ValueError,
)  # their messages are sentences; those of others need their name


def is_ours(file: str) -> bool:
    """Whether a file is one of this package's own, or no file; those of problems/ are problems like a user's."""
    path = Path(file)
    return file.startswith("<") or (path.is_relative_to(PACKAGE) and not path.is_relative_to(PACKAGE / "problems"))


class ProblemError(ValueError):
    """A problem that cannot be used as it stands: one sentence, with its file and line first."""


def place(file: str, line: int) -> str:
    """ "fisher.py, line 14"; the path from the current folder where the file lies below it."""
    path = Path(file)
    if path.is_file() and path.resolve().is_relative_to(Path.cwd()):
        file = str(path.resolve().relative_to(Path.cwd()))
    return f"{file}, line {line}"


def place_of(function: Callable[..., Any]) -> str:
    """Where a function begins; "" for one that is not written in Python."""
    code = getattr(function, "__code__", None)
    return place(code.co_filename, code.co_firstlineno) if code else ""


def place_given(cls: type, name: str) -> str:
    """The line in which a class, or the base that it has it from, gives the attribute `name`; where none does, or where it
    cannot be read, the line in which the class begins; its module where its source is not at hand."""
    owner = next((base for base in cls.__mro__ if name in vars(base) and not is_ours(_file(base))), cls)
    try:
        lines, first = inspect.getsourcelines(owner)
    except (OSError, TypeError):
        return cls.__module__
    found = [number for number, line in enumerate(lines) if re.match(rf"\s+(def\s+)?{name}\b", line)]
    return place(_file(owner), first + (found[0] if found else 0))


def _file(cls: type) -> str:
    try:
        return inspect.getfile(cls)
    except (OSError, TypeError):
        return "<unknown>"


def caller() -> str:
    """The line, outside of this package, that is being run; "" where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not is_ours(file):
            return place(file, frame.f_lineno)
        frame = frame.f_back
    return ""


def files_of(cls: type) -> set[str]:
    """The files in which a class and its bases, but for those of this package, are written."""
    functions = [getattr(member, "fget", member) for base in cls.__mro__ for member in vars(base).values()]
    files = {code.co_filename for code in (getattr(f, "__code__", None) for f in functions) if code}
    return {file for file in files if not is_ours(file)}


def place_in(error: BaseException, files: Collection[str]) -> str:
    """The innermost line of these files that an error came through; of a syntax error, its own; "" where none is theirs."""
    if isinstance(error, SyntaxError) and error.filename is not None and error.filename in files:
        return place(error.filename, error.lineno or 1)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return place(frames[-1].filename, frames[-1].lineno or 1) if frames else ""


def sentence(error: BaseException) -> str:
    """The first line of an error's message, after its name where that is not one of ours."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if isinstance(error, OURS) else f"{type(error).__name__}: {first}"


@contextmanager
def naming(problem: object, otherwise: str | Callable[..., Any] = "") -> Iterator[None]:
    """An error inside becomes a ProblemError that names the line of the problem's own file, or else the place `otherwise`, or
    that of the function `otherwise`, looked up then: it takes the file system."""
    try:
        yield
    except (ProblemError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        cls, said = type(problem), sentence(error)
        otherwise = place_of(otherwise) if callable(otherwise) else otherwise
        where = place_in(error, files_of(cls)) or otherwise or cls.__module__
        name = "" if said.startswith(cls.__name__) else f"{cls.__name__}: "
        raise ProblemError(f"{where}: {name}{said}") from error
