"""One page of all benchmarks whose files are there: tables, figures, and what each was made with.

    python benchmarks/page.py [--folder results/benchmarks]    # writes index.html there

The page asks for nothing over the network: the style sheet, which is the reports', and the figures are in it.
"""

from __future__ import annotations

import argparse
import ast
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from side_by_side import machine

import pinn_lora
from pinn_lora.folders import write_atomically

HERE = Path(__file__).parent
LAST = 12  # entries of a list that stand in a cell; of a longer one its length does


@dataclass(frozen=True)
class Table:
    """Rows by column; `words`: the columns that hold text."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    words: frozenset[str]


@dataclass(frozen=True)
class Section:
    """One benchmark: what its script says of itself, and what its file holds."""

    name: str
    about: str
    text: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    image: str | None


def told(value: Any) -> str:
    """A value as it stands on the page: four digits, a dash for what is missing."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(told, value)) if len(value) <= LAST else f"{len(value)} entries"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {told(one)}" for name, one in value.items())
    return str(value)


def flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """One level of names: {"milliseconds": {"plain": 1}} is {"milliseconds: plain": 1}."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}: ")
        else:
            found[before + name] = value
    return found


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = tuple(flat(row) for row in rows)
    columns = tuple(dict.fromkeys(column for row in cells for column in row))
    words = frozenset(c for c in columns if any(isinstance(row.get(c), str | list) for row in cells))
    return Table(name, columns, cells, words)


def contents(record: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[Table]]:
    """What is one line, and what is a table: a list of objects, or an object of objects."""
    facts, tables = [], []
    for name, value in record.items():
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            tables.append(table(name, value))
        elif isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
            tables.append(table(name, [{"": key, **row} for key, row in value.items()]))
        else:
            facts.append((name, told(value)))
    return facts, tables


def section(path: Path, scripts: Path) -> Section:
    """Of one file; ValueError where it is no JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON ({error}); run its benchmark again or remove it") from None
    if not isinstance(record, dict):
        raise ValueError(f"'{path}' does not hold a JSON object; run its benchmark again or remove it")
    script, figure, text, image = scripts / f"{path.stem}.py", path.with_suffix(".png"), "", None
    if script.is_file():
        text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    if figure.is_file():
        image = f"data:image/png;base64,{base64.b64encode(figure.read_bytes()).decode()}"
    facts, tables = contents(record)
    about = " ".join(text.partition("\n\n")[0].split())
    return Section(path.stem, about, text, tuple(facts), tuple(tables), image)


def benchmarks(scripts: Path = HERE) -> list[str]:
    """The scripts that write a file for this page, by stem."""
    files = sorted(scripts.glob("*.py"))
    return [path.stem for path in files if f"results/benchmarks/{path.stem}.json" in path.read_text(encoding="utf-8")]


def write_page(folder: Path, scripts: Path = HERE) -> Path:
    """Writes index.html into a folder of JSON files and returns its path; ValueError where there is none to read."""
    found = sorted(folder.glob("*.json"))
    if not found:
        raise ValueError(f"'{folder}' has no JSON file of a benchmark; make bench, or one of benchmarks/, writes them")
    sections = [section(path, scripts) for path in found]
    known = [one.name for one in sections]
    templates = Path(pinn_lora.__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, templates]), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["told"] = told
    missing = [name for name in benchmarks(scripts) if name not in known]
    page = environment.get_template("page.html").render(sections=sections, missing=missing, here=told(machine()))
    path = folder / "index.html"
    write_atomically(path, page)
    return path


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args(given)
    try:
        print(f"written to {write_page(arguments.folder)}")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
