"""Error against parameter over a family: one figure, from the rows of its table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

Row = dict[str, Any]
FEW = 8  # values of a coefficient that each get a tick
ADAPTED, ZERO_SHOT, SCRATCH, BASE = "#0072B2", "#7F7F7F", "#D55E00", "#009E73"
MEASURES = {
    "relative_l2": ("zero_shot", "relative L2 error"),
    "residual": ("zero_shot_residual", "root mean square of the residual"),
}


def plot_family(rows: Sequence[Row], names: Sequence[str], *, base: Row, scratch: Sequence[Row] = ()) -> Figure:
    """The error of every member, beside the unchanged base's, over the one or two coefficients `names` that vary.

    rows: of `Family.table`, of several seeds where they have one. base: the base's own coefficients and error. scratch: rows of
    members trained from scratch. Without any reference the residual's norm is drawn. ValueError for more coefficients.
    """
    measure = "relative_l2" if any(row["relative_l2"] is not None for row in rows) else "residual"
    if len(names) not in (1, 2):
        told = ", ".join(names) or "none"
        raise ValueError(f"plot draws families in which one or two coefficients vary; here: {told}")
    figure = Figure(figsize=(7.2, 5.0) if len(names) == 1 else (10.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    if len(names) == 1:
        _curve(figure.subplots(), rows, names[0], measure, base, scratch)
    else:
        _scatter(figure, rows, names, measure, base)
    return figure


def _known(value: Any) -> float:
    return math.nan if value is None or not math.isfinite(value) or value <= 0 else float(value)


def _medians(rows: Sequence[Row], name: str, key: str) -> tuple[list[float], list[float]]:
    """The values of a coefficient, sorted, and the median over the seeds of each; a failed seed counts as infinite."""
    values = sorted({float(row[name]) for row in rows})
    found = []
    for value in values:
        errors = [_known(row[key]) for row in rows if float(row[name]) == value]
        middle = median(math.inf if math.isnan(error) else error for error in errors)
        found.append(middle if math.isfinite(middle) else math.nan)
    return values, found


def _logarithmic(rows: Sequence[Row], name: str) -> bool:
    return all(row[name] > 0 for row in rows)


def _curve(axes: Axes, rows: Sequence[Row], name: str, measure: str, base: Row, scratch: Sequence[Row]) -> None:
    before, label = MEASURES[measure]
    axes.plot(*_medians(rows, name, before), color=ZERO_SHOT, linestyle="--", label="zero-shot: the base unchanged")
    axes.plot(*_medians(rows, name, measure), color=ADAPTED, linewidth=1.6, label="adapted" + _seeds(rows))
    kept = [row for row in rows if not _failed(row, measure)]
    axes.plot([r[name] for r in kept], [r[measure] for r in kept], "o", color=ADAPTED, markersize=4, alpha=0.6)
    if made := [row for row in scratch if not _failed(row, measure)]:
        points = [r[name] for r in made], [r[measure] for r in made]
        axes.plot(*points, "s", color=SCRATCH, markersize=5, label="trained from scratch")
    if math.isfinite(_known(base[measure])):
        axes.plot(base[name], base[measure], "*", color=BASE, markersize=12, label="the base, on its own problem")
    axes.set_yscale("log")
    if _logarithmic([*rows, base], name):
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    if failed := [row for row in rows if _failed(row, measure)]:
        top = axes.get_ylim()[1]
        axes.plot([r[name] for r in failed], [top] * len(failed), "x", color="black", markersize=9, label="diverged")
    axes.set_xlabel(name)
    axes.set_ylabel(label)
    axes.grid(alpha=0.25, which="both")
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)  # inside it would cover points


def _plain_numbers(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis of less than two decades, which has hardly a power of ten on it."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 2.0:
        steps = range(1, 10) if decades < 0.5 else (1, 2, 3, 5) if decades < 1.0 else (1, 2, 5)
        axis.set_major_locator(LogLocator(subs=tuple(float(step) for step in steps)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _label_each(panels: Sequence[Axes], side: str, values: set[float]) -> None:
    """A tick at every value, where these are few: on a logarithmic axis powers of ten would say nothing of them."""
    if len(values) > FEW:
        return
    for axes in panels:
        axis = getattr(axes, f"{side}axis")
        axis.set_ticks([], minor=True)
        axis.set_ticks(sorted(values), labels=[f"{value:g}" for value in sorted(values)])


def _failed(row: Row, measure: str) -> bool:
    return row["status"] == "DIVERGED" or math.isnan(_known(row[measure]))


def _seeds(rows: Sequence[Row]) -> str:
    count = len({row.get("seed", 0) for row in rows})
    return f": median of {count} seeds, and each" if count > 1 else ""


def _scatter(figure: Figure, rows: Sequence[Row], names: Sequence[str], measure: str, base: Row) -> None:
    before, label = MEASURES[measure]
    drawn = [row for row in rows if not _failed(row, measure)]
    values = [_known(row[key]) for row in drawn for key in (before, measure)]
    values = [value for value in values if math.isfinite(value)] or [1.0]
    norm = LogNorm(vmin=min(values), vmax=max(max(values), 1.001 * min(values)))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    shades = []
    for axes, key, title in zip(panels, (before, measure), ("zero-shot: the base unchanged", "adapted"), strict=True):
        x, y = (np.array([row[name] for row in drawn], dtype=float) for name in names)
        shade = np.array([_known(row[key]) for row in drawn])
        shades.append(axes.scatter(x, y, c=shade, norm=norm, cmap="viridis", s=60))
        failed = [row for row in rows if _failed(row, measure)]
        if failed and key == measure:
            points = [r[names[0]] for r in failed], [r[names[1]] for r in failed]
            axes.plot(*points, "x", color="black", markersize=9, label="diverged")
        axes.plot(base[names[0]], base[names[1]], "*", color=BASE, markersize=12, label="the base")
        axes.set_title(title)
        axes.set_xlabel(names[0])
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    panels[0].set_ylabel(names[1])
    for side, name in zip("xy", names, strict=True):
        if _logarithmic([*rows, base], name):
            getattr(panels[0], f"set_{side}scale")("log")
            _plain_numbers(getattr(panels[0], f"{side}axis"))  # the panels share it
        _label_each(panels, side, {float(row[name]) for row in [*rows, base]})
    figure.colorbar(shades[0], ax=panels, label=label)
