"""The files to begin a problem of one's own with: a commented one that runs at once, and a small study of it."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from string import Template

from pinn_lora.places import ProblemError

TEMPLATES = Path(__file__).parent / "templates"


def new_problem(name: str, folder: str | Path = ".") -> tuple[Path, Path]:
    """Writes NAME.py, a commented problem, and NAME.toml, a small study of it, into a folder.

    ProblemError, and nothing is written, for a name that is no Python name or is taken by a module, for a folder that is not
    there, and where one of the files is there already.
    """
    folder, title = Path(folder), "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ProblemError(f"{name!r} cannot name a problem: take letters, digits and _, beginning with a letter")
    for word in (name, title):
        if keyword.iskeyword(word):
            raise ProblemError(f"{name!r} cannot name a problem: {word} is a word of Python's own; choose another name")
    if not folder.is_dir():
        raise ProblemError(f"there is no folder {folder}")
    paths = folder / f"{name}.py", folder / f"{name}.toml"
    for path in paths:
        if path.exists():
            raise ProblemError(f"{path} exists already; nothing was written: choose another name")
    installed = [path for path in sys.path if Path(path).resolve() != Path.cwd()]  # what lies here is the user's own
    if name in sys.stdlib_module_names or PathFinder.find_spec(name, installed) is not None:
        raise ProblemError(f"Python has a module {name} already, which {name}.py would hide: choose another name")
    said = {"name": name, "Class": title}
    for path, template in zip(paths, ("problem.txt", "study.txt"), strict=True):
        with path.open("x", encoding="utf-8") as file:
            file.write(Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(said))
    return paths
