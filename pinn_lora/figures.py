"""What a report is made of (runs, cells, variants, cases) and its figures.

A *variant* is a method with a start, in one case. A *cell* is a variant at one step size, with all its seeds. The
*tuned* cell of a variant has the lowest median held-out loss among the cells with the most seeds (a study may scan
step sizes with one seed and run the others at the best). The reference error never chooses anything.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Row = dict[str, Any]
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9),
    "svg.hashsalt": "pinn_lora",
    "text.hinting": "none",  # hinted text is wider at the SVG's 72 dpi than where it was laid out
}
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9", "#7F7F7F")  # Okabe and Ito
MARKERS = "os^Dv*PX<>"
LINES = {"zero_b": "-", "balanced": (0, (5, 1.5)), "pretrained": (0, (1, 1.2))}
OTHER_LINES = ("-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
MASS_OF_LIFT = {"balanced": "balanced", "chain_rule": "identity"}
THICK = {"linewidth": 1.8, "markersize": 5, "markevery": 0.13, "where": "post"}
THIN = {"linewidth": 0.6, "alpha": 0.45, "marker": "", "where": "post"}
CROSS = {"marker": "x", "markersize": 9, "markeredgewidth": 2}
FLOOR = 1e-18


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


def power_of_ten(step: float) -> str:
    mantissa, exponent = f"{step:.1e}".split("e")
    times = "" if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}·"
    return rf"{times}$10^{{{int(exponent)}}}$"


def family(run: Run) -> str:
    return run.optimizer or f"{'implicit' if run.implicit else 'explicit'} {run.mass_name or run.lift}"


def looks(runs: Sequence[Run]) -> dict[str, Row]:
    """Colour by family, marker by method within its colour, line style by start; the same in every case of a study."""
    families = [name for _, name in sorted({(not run.implicit, family(run)) for run in runs})]
    colours = {run.method: COLOURS[families.index(family(run)) % len(COLOURS)] for run in runs}
    peers = {colour: sorted(name for name in colours if colours[name] == colour) for colour in colours.values()}
    others = sorted({run.start for run in runs} - LINES.keys())
    lines = LINES | {start: OTHER_LINES[index % len(OTHER_LINES)] for index, start in enumerate(others)}
    found = {}
    for run in runs:
        colour = colours[run.method]
        marker = MARKERS[peers[colour].index(run.method) % len(MARKERS)]
        found[f"{run.method}, {run.start}"] = {"color": colour, "marker": marker, "linestyle": lines[run.start]}
    return found


def draw(case: Case, variants: Sequence[Variant], look: Row) -> dict[str, Figure]:
    """The figures of one case that have data, by name. No pyplot: drawing leaves no global state behind."""
    factors = [variant for variant in variants if variant.runs[0].trains == "factors"]
    error: Row = {"column": "relative_l2", "level": case.zero_shot, "title": case.title, "ylabel": "relative L2 error"}
    drift: Row = {"column": "drift", "title": case.title, "ylabel": "relative drift of BᵀB − AAᵀ"}
    with style.context(["default", STYLE]):
        drawn = {
            "error-work": curves(variants, look, "work", xlabel="work (units of one loss and gradient)", **error),
            "error-seconds": curves(variants, look, "seconds", xlabel="time (s)", **error),
            "step-sizes": step_map(variants, title=case.title, zero_shot=case.zero_shot),
            "fields": solution_fields(case, variants),
            "drift": curves(factors, look, "step", xlabel="steps", **drift),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def curves(
    variants: Sequence[Variant], look: Row, axis: str, *, column: str, level: float = math.nan, **labels: str
) -> Figure | None:
    """`column` against `axis` at tuned steps, log-log: every seed thin, the median over seeds thick and marked."""
    figure = Figure(figsize=(10.5, max(5.6, 0.7 + 0.22 * len(variants))), layout="constrained")  # a legend line each
    axes = figure.add_subplot(xscale="log", yscale="log", **labels)
    seen: list[float] = []
    for variant in variants:
        shape = look[variant.label]
        seen += _curve(axes, variant, axis, column, shape, top=30 * level)
        axes.plot([], [], label=_legend(variant), markersize=5, **shape)
    if not seen:
        return None
    low, high = min(seen), max(seen)
    if math.isfinite(level):
        low, high = min(low, level), min(max(high, level), 30 * level)
        axes.axhline(level, color="black", linestyle="--", linewidth=1)
        axes.text(1.005, level, f"zero-shot\n{short(level)}", va="center", transform=axes.get_yaxis_transform())
    axes.set_ylim(low / 2, high * 2)
    axes.grid(which="major", color="0.9", linewidth=0.6)
    figure.legend(loc="outside right upper", title="variant, tuned step size", handlelength=4, frameon=False)
    return figure


def _legend(variant: Variant) -> str:
    if variant.tuned is None:
        return f"{variant.label}: refused"
    failed = ", diverged" if math.isinf(variant.held_out) else ""
    return f"{variant.label}, {power_of_ten(variant.tuned.step_size)}{failed}"


def _curve(axes: Axes, variant: Variant, axis: str, column: str, shape: Row, *, top: float) -> list[float]:
    """Draw one variant; return the finite values of its curves. A diverged seed ends in a cross, at `top` at most."""
    runs = variant.tuned.runs if variant.tuned else ()
    seen, ends = list[float](), list[float]()
    for run in runs:
        x, y = run.curve(axis, column)
        drawn = np.isfinite(y) & (x > 0)
        x, y = x[drawn], np.maximum(y[drawn], FLOOR)
        if x.size:
            seen, ends = [*seen, *y.tolist()], [*ends, float(x[0]), float(x[-1])]
            axes.step(x, y, **shape | THIN)
            if run.failed:
                axes.plot(x[-1], np.fmin(y[-1], top), **shape | CROSS)
    if ends:
        grid = np.geomspace(min(ends), max(ends), 200)
        middle = np.median([run.at(axis, grid, column) for run in runs], axis=0)
        kept = np.isfinite(middle)
        axes.step(grid[kept], np.maximum(middle[kept], FLOOR), **shape | THICK)
    return seen


def step_map(variants: Sequence[Variant], *, title: str, zero_shot: float) -> Figure | None:
    """Variant x step size, coloured by the median relative L2 of the cell."""
    steps = sorted({cell.step_size for variant in variants for cell in variant.cells})
    if not steps:
        return None
    table = np.full((len(variants), len(steps)), math.nan)
    for row, variant in enumerate(variants):
        for cell in variant.cells:
            table[row, steps.index(cell.step_size)] = median(cell.errors)
    shown = np.ma.masked_invalid(table)
    low = float(np.min(shown.compressed(), initial=zero_shot if zero_shot > 0 else 1.0))
    high = float(np.max(shown.compressed(), initial=low))
    norm = LogNorm(max(low, FLOOR), max(np.fmin(high, 10 * zero_shot), 2 * low, 2 * FLOOR))
    size = max(4.9 + 0.64 * len(steps), 8.6), 1.8 + 0.46 * len(variants)  # at least as wide as the legend
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot(title=f"{title}; zero-shot {short(zero_shot)}", xlabel="step size (adaptive: the first)")
    edges = np.arange(len(steps) + 1) - 0.5, np.arange(len(variants) + 1) - 0.5
    mesh = axes.pcolormesh(*edges, shown, norm=norm, cmap="viridis", edgecolors="white", linewidth=1)
    for row, variant in enumerate(variants):
        for cell in variant.cells:
            _cell(axes, cell, steps.index(cell.step_size), row, norm, mark="★" if cell is variant.tuned else "")
        if not variant.cells:
            axes.text(-0.4, row, f"refused: {variant.runs[0].message}"[: 10 * len(steps)], va="center", fontsize=9)
    axes.set_xticks(range(len(steps)), [power_of_ten(step) for step in steps])
    names = [variant.label + (" (adaptive)" if variant.runs[0].adaptive else "") for variant in variants]
    axes.set_yticks(range(len(variants)), names)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    figure.colorbar(mesh, label="median relative L2", extend="max")
    works = Patch(facecolor="none", edgecolor=COLOURS[0], linewidth=2.4, label="works: every seed below zero-shot / 4")
    hatched = Patch(facecolor="0.93", edgecolor="0.55", hatch="//", label="div k/n: k of n seeds diverged")
    star = Line2D([], [], linestyle="none", marker="$★$", color="black", label="tuned step size")
    figure.legend(handles=[works, hatched, star], loc="outside lower center", ncols=3, frameon=False)
    return figure


def _cell(axes: Axes, cell: Cell, column: int, row: int, norm: LogNorm, *, mark: str) -> None:
    value, ink, back = median(cell.errors), "black", None
    words = [] if math.isinf(value) else [short(value)]
    if cell.diverged:
        hatch: Any = {"facecolor": "0.93" if math.isinf(value) else "none", "edgecolor": "0.55", "hatch": "//"}
        axes.add_patch(Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, linewidth=0, **hatch))
        words, back = (
            [*words, f"div {cell.diverged}/{len(cell.runs)}"],
            {"facecolor": "white", "linewidth": 0, "pad": 1},
        )
    elif 0 < value < math.inf:
        red, green, blue, _ = colormaps["viridis"](float(norm(value)))
        ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
    if cell.works:
        box = (column - 0.45, row - 0.43), 0.9, 0.86
        axes.add_patch(Rectangle(*box, fill=False, edgecolor=COLOURS[0], linewidth=2.4))
    axes.text(column, row, mark + "\n".join(words), ha="center", va="center", fontsize=9, color=ink, bbox=back)


def solution_fields(case: Case, variants: Sequence[Variant]) -> Figure | None:
    """Reference, and |error| of zero-shot and of the three best variants (by held-out loss) on one colour scale."""
    grid = case.grid
    if not {"axis_0", "axis_1", "reference", "zero_shot"} <= grid.keys():
        return None
    errors = {f"zero-shot\nrelative L2 {short(case.zero_shot)}": np.abs(grid["zero_shot"] - grid["reference"])}
    typical = [(variant, _typical(variant, grid["reference"].shape)) for variant in variants]
    for variant, run in [(variant, run) for variant, run in typical if run][:3]:
        prediction = arrays(run.folder / "field.npz")["prediction"]
        errors[f"{variant.label}\nseed {run.seed}, relative L2 {short(run.error)}"] = np.abs(
            prediction - grid["reference"]
        )
    largest = max(float(np.max(error, initial=0, where=np.isfinite(error))) for error in errors.values()) or 1.0
    norm, rows = LogNorm(largest * 1e-5, largest), 2 if len(errors) > 2 else 1
    figure = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    figure.suptitle(case.title)
    panels = list(figure.subplots(rows, 3, squeeze=False).flat)
    for panel in panels[len(errors) + 1 :]:
        panel.remove()
    first, *others = panels[: len(errors) + 1]
    names = [str(name) for name in grid.get("names", ("axis 0", "axis 1"))]
    mesh = first.pcolormesh(grid["axis_1"], grid["axis_0"], grid["reference"], cmap="cividis", rasterized=True)
    first.set(title="reference solution", xlabel=names[1], ylabel=names[0])
    figure.colorbar(mesh, ax=first, location="left", label="reference solution")
    for panel, (label, error) in zip(others, errors.items(), strict=True):
        shown = np.ma.masked_invalid(np.clip(error, largest * 1e-5, None))
        mesh = panel.pcolormesh(grid["axis_1"], grid["axis_0"], shown, norm=norm, cmap="magma", rasterized=True)
        panel.set(title=label, xlabel=names[1], ylabel=names[0])
    figure.colorbar(mesh, ax=others, label="absolute error", extend="min")
    return figure


def _typical(variant: Variant, shape: tuple[int, ...]) -> Run | None:
    """The tuned run with a field whose held-out loss is the (lower) median; none for a variant that diverged."""
    if variant.tuned is None or math.isinf(variant.held_out):
        return None
    runs = sorted(variant.tuned.runs, key=lambda run: run.loss)
    stored = [run for run in runs if arrays(run.folder / "field.npz").get("prediction", np.empty(0)).shape == shape]
    return stored[(len(stored) - 1) // 2] if stored else None
