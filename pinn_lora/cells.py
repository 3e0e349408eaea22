"""What a report is made of: runs, cells, variants and cases.

A *variant* is a method with a start, in one case. A *cell* is a variant at one step size, with all its seeds. The
*tuned* cell of a variant has the lowest median held-out loss among the cells with the most seeds; where a study tunes with
one seed and runs the others at the best, the lowest loss of that seed. The reference error never chooses anything.

*Work* is a run's seconds in units of one loss and gradient. Every run measures that unit once, and such a measurement
wavers, so that one unit stands for all runs of a case and trainable set: the median of theirs, of those on one clock.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Row = dict[str, Any]


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
    def refused(self) -> bool:
        return self.status == "REFUSED"

    @property
    def failed(self) -> bool:
        return self.refused or self.status == "DIVERGED"

    @property
    def error(self) -> float:
        """Final relative L2: infinite when the run failed, nan when it was not measured."""
        return math.inf if self.failed else number(self.relative_l2)

    @property
    def loss(self) -> float:
        """Final held-out loss: infinite when the run failed or the loss is not a number."""
        loss = number(self.held_out_loss)
        return math.inf if self.failed or math.isnan(loss) else loss

    @classmethod
    def read(cls, folder: Path, record: Row) -> Run:
        """The run that `record` tells of; an entry that it lacks is None."""
        names = [field.name for field in fields(cls) if field.name not in ("folder", "record")]
        entries: Row = {name: record.get(name) for name in names}
        return cls(folder, record, **entries)

    @property
    def unit(self) -> float:
        """The seconds of one unit of work: nan where none is known."""
        return number(self.record.get("unit"))

    def in_units(self, unit: float) -> Run:
        """The same run with its work told in this unit; as it is where that or its seconds are not known."""
        work = number(self.record.get("seconds")) / unit
        return self if math.isnan(work) else replace(self, record=self.record | {"unit": unit, "work": work})

    @cached_property
    def history(self) -> dict[str, Array]:
        """The columns of history.csv: none if there is no such file; an empty field is nan. Work is in the unit of `unit`."""
        path, words = self.folder / "history.csv", {"": math.nan, "True": 1.0, "False": 0.0}
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
        names, body = (rows[0], rows[1:]) if rows else ([], [])
        try:
            table = [[words[field] if field in words else float(field) for field in row] for row in body if row]
            columns = np.array(table, dtype=float).reshape(len(table), len(names)).T
        except ValueError as error:
            raise ReportError(f"'{path}' is not a table with one number a column: {error}.") from None
        found = dict(zip(names, columns, strict=True))
        return found | {"work": found["seconds"] / self.unit} if found and self.unit > 0 else found

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
    """One member of a family to adapt to: what study.json says of it, and the fields on its grid.
    `bound`: what its reference may itself err by, a relative L2 error; nan where it has a closed form or states none."""

    id: str
    title: str
    about: Row
    zero_shot: float
    path: Path
    bound: float = math.nan

    @property
    def measured(self) -> bool:
        """Whether its errors are known: not where its problem has no reference."""
        return not math.isnan(self.zero_shot)

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

    @property
    def clocks(self) -> str:
        """What its runs were timed by: "CPU", "wall", or both, where their seconds are not alike."""
        return " and ".join(sorted({run.record.get("clock") or "wall" for run in self.runs if not run.refused}))

    def loss_of(self, seed: int) -> float:
        """The held-out loss of the run with this seed: nan where there is none."""
        return next((run.loss for run in self.runs if run.seed == seed), math.nan)


@dataclass(frozen=True)
class Variant:
    """A method with a start, in one case. `cells` runs over its step sizes; it is empty when every run was refused.
    `tuned_by`: the seed whose runs alone choose the step size, where the others are run at that one only."""

    case: Case
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]
    tuned_by: int | None = None

    @property
    def label(self) -> str:
        return f"{self.runs[0].method}, {self.runs[0].start}"

    @cached_property
    def tuned(self) -> Cell | None:
        if self.tuned_by is not None:
            losses = {cell.step_size: cell.loss_of(self.tuned_by) for cell in self.cells}
            if scanned := [cell for cell in self.cells if not math.isnan(losses[cell.step_size])]:
                return min(scanned, key=lambda cell: (losses[cell.step_size], -len(cell.runs), cell.step_size))
        most = max((len(cell.runs) for cell in self.cells), default=0)
        full = [cell for cell in self.cells if len(cell.runs) == most]
        return min(full, key=lambda cell: (cell.held_out, cell.diverged, cell.step_size), default=None)

    @property
    def left_over(self) -> int:
        """Runs that the plan no longer asks for: of other seeds, at a step size that was the tuned one of a narrower grid."""
        others = [cell for cell in self.cells if cell is not self.tuned] if self.tuned_by is not None else []
        return sum(run.seed != self.tuned_by for cell in others for run in cell.runs)

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


def end(variant: Variant, axis: str) -> float:
    """The largest work or seconds that a tuned run has reached."""
    curves = [run.curve(axis)[0] for run in variant.tuned.runs] if variant.tuned else []
    return max((float(x[-1]) for x in curves if x.size), default=math.nan)


def at(variant: Variant, axis: str, budget: float) -> list[float]:
    """The tuned runs' errors at a budget of work or seconds."""
    return [float(run.at(axis, budget)) for run in variant.tuned.runs] if variant.tuned else []


def in_common_units(runs: Sequence[Run]) -> list[Run]:
    """The runs of a folder with work in one unit a case, trainable set and clock: the median of what its runs measured."""
    found: dict[tuple[str, str, str], list[float]] = {}
    kind = lambda run: (run.case, run.trains, run.record.get("clock") or "wall")  # noqa: E731
    for run in runs:
        measured = number(run.record.get("unit_seconds"))
        if measured > 0:
            found.setdefault(kind(run), []).append(measured)
    return [run.in_units(median(found.get(kind(run), ()))) for run in runs]


def median(values: Iterable[float]) -> float:
    """Infinite values count as such; one missing value makes the median missing."""
    values = list(values)
    return float(np.median(values)) if values else math.nan


def largest(values: Iterable[float | None]) -> float:
    """The largest of the values that are there; nan where none is."""
    return max((number(value) for value in values if not math.isnan(number(value))), default=math.nan)


def number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What an .npz file holds, nothing where there is none. ReportError for one that is damaged."""
    if not path.is_file():
        return {}
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise ReportError(
            f"'{path}' is damaged, it is no .npz file that can be read ({error}); put it back as it was, or remove "
            "it, and the report leaves its picture out."
        ) from None


def short(value: float) -> str:
    """1.5e-4; a dash for what is missing."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "diverged"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
