"""What a report is made of: runs, cells, variants and cases.

A *variant* is a method with a start, in one case. A *cell* is a variant at one step size, with all its seeds. The
*tuned* cell of a variant has the lowest median held-out loss among the cells with the most seeds (a study may scan
step sizes with one seed and run the others at the best). The reference error never chooses anything.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Row = dict[str, Any]
MASS_OF_LIFT = {"balanced": "balanced", "chain_rule": "identity"}


class ReportError(ValueError):
    """A results folder that cannot be reported: one sentence that names what is wrong."""


@dataclass(frozen=True)
class Run:
    """One finished run: `record` is all of run.json, the other fields are entries of it. Its history is read lazily."""

    folder: Path
    record: Row
    case: str
    method: str
    start: str
    trains: str
    metric: str | None
    lift: str | None
    integrator: str | None
    optimizer: str | None
    implicit: bool
    adaptive: bool
    mass: str | None
    step_size: float | None
    seed: int
    status: str
    message: str | None
    relative_l2: float | None
    held_out_loss: float | None

    @property
    def failed(self) -> bool:
        return self.status in ("DIVERGED", "REFUSED")

    @property
    def error(self) -> float:
        """Final relative L2: infinite when the run failed, nan when it was not measured."""
        return math.inf if self.failed else number(self.relative_l2)

    @property
    def loss(self) -> float:
        """Final held-out loss: infinite when the run failed or the loss is not a number."""
        loss = number(self.held_out_loss)
        return math.inf if self.failed or math.isnan(loss) else loss

    @property
    def mass_name(self) -> str | None:
        return MASS_OF_LIFT.get(self.lift) if self.lift else self.mass if self.trains == "factors" else "identity"

    @cached_property
    def history(self) -> dict[str, Array]:
        """The columns of history.csv: none if there is no such file; an empty field is nan."""
        path, words = self.folder / "history.csv", {"": math.nan, "True": 1.0, "False": 0.0}
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
        names, body = (rows[0], rows[1:]) if rows else ([], [])
        try:
            table = [[words[field] if field in words else float(field) for field in row] for row in body if row]
            columns = np.array(table, dtype=float).reshape(len(table), len(names)).T
        except ValueError as error:
            raise ReportError(f"'{path}' is not a table with one number a column: {error}.") from None
        return dict(zip(names, columns, strict=True))

    def curve(self, axis: str, column: str = "relative_l2") -> tuple[Array, Array]:
        """`column` against `axis` (step, work or seconds), without gaps; relative L2 ends with what run.json says."""
        x, y = self.history.get(axis, np.empty(0)), self.history.get(column, np.empty(0))
        if column == "relative_l2":
            ends = [value for value in (*x[-1:], number(self.record.get(axis))) if not math.isnan(value)]
            end = max(ends, default=0.0 if self.failed else math.nan)
            x, y = np.append(x, end), np.append(y, self.error)
        known = ~np.isnan(x) & ~np.isnan(y)
        return x[known], y[known]

    def at(self, axis: str, budget: ArrayLike, column: str = "relative_l2") -> Array:
        """The last recorded value at or before each budget: nan before the first record, carried on after the last."""
        x, y = self.curve(axis, column)
        return np.append(math.nan, y)[np.searchsorted(x, budget, side="right")]


@dataclass(frozen=True)
class Case:
    """One member of a family to adapt to: what study.json says of it, and the fields on its grid."""

    id: str
    title: str
    about: Row
    zero_shot: float
    path: Path

    @cached_property
    def grid(self) -> dict[str, NDArray[Any]]:
        return arrays(self.path)


@dataclass(frozen=True)
class Cell:
    """A variant at one step size, with all its seeds. A diverged seed counts as infinite."""

    step_size: float
    runs: tuple[Run, ...]
    zero_shot: float

    @property
    def errors(self) -> list[float]:
        return [run.error for run in self.runs]

    @property
    def held_out(self) -> float:
        return median(run.loss for run in self.runs)

    @property
    def diverged(self) -> int:
        return sum(run.status == "DIVERGED" for run in self.runs)

    @property
    def works(self) -> bool:
        return all(error < self.zero_shot / 4 for error in self.errors)


@dataclass(frozen=True)
class Variant:
    """A method with a start, in one case. `cells` runs over its step sizes; it is empty when every run was refused."""

    case: Case
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        return f"{self.runs[0].method}, {self.runs[0].start}"

    @cached_property
    def tuned(self) -> Cell | None:
        most = max((len(cell.runs) for cell in self.cells), default=0)
        full = [cell for cell in self.cells if len(cell.runs) == most]
        return min(full, key=lambda cell: (cell.held_out, cell.diverged, cell.step_size), default=None)

    @property
    def at_edge(self) -> bool:
        """Whether the tuned step size is the smallest or the largest of several that were tried, so that a better one may lie
        beyond. Never said of an adaptive method: there it is only the first one."""
        tried = [cell.step_size for cell in self.cells]
        if self.tuned is None or len(tried) < 2 or self.runs[0].adaptive:
            return False
        return self.tuned.step_size in (min(tried), max(tried))

    @property
    def held_out(self) -> float:
        return self.tuned.held_out if self.tuned else math.inf

    @property
    def error(self) -> float:
        return median(self.tuned.errors) if self.tuned else math.nan


def median(values: Iterable[float]) -> float:
    """Infinite values count as such; one missing value makes the median missing."""
    values = list(values)
    return float(np.median(values)) if values else math.nan


def number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def short(value: float) -> str:
    """1.5e-4; a dash for what is missing."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "diverged"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
