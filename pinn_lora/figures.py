"""The figures of a report, drawn from its cells."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from pinn_lora.cells import Case, Cell, Row, Run, Variant, arrays, median, short

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
THICK = {"linewidth": 1.8, "markersize": 5, "markevery": 0.13, "where": "post"}
THIN = {"linewidth": 0.6, "alpha": 0.45, "marker": "", "where": "post"}
CROSS = {"marker": "x", "markersize": 9, "markeredgewidth": 2}
FLOOR = 1e-18
BALANCED = 1e-10  # an imbalance below is drawn there: a balanced start's is rounding, which would take up half the axis
DECADES = 5  # of a map's colours, below zero-shot
CROWD = 12  # variants in one panel; of more, the implicit ones get one of their own


def power_of_ten(step: float) -> str:
    mantissa, exponent = f"{step:.1e}".split("e")
    times = "" if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}·"
    return rf"{times}$10^{{{int(exponent)}}}$"


def family(run: Run) -> str:
    return run.optimizer or f"{'implicit' if run.implicit else 'explicit'} {run.mass or run.lift}"


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
    drift: Row = {"column": "drift", "title": case.title, "ylabel": "imbalance of B and A"}
    with style.context(["default", STYLE]):
        drawn = {
            "error-work": curves(variants, look, "work", xlabel="work (units of one loss and gradient)", **error),
            "error-seconds": curves(variants, look, "seconds", xlabel="time (s)", **error),
            "step-sizes": step_map(variants, title=case.title, zero_shot=case.zero_shot),
            "fields": solution_fields(case, variants),
            "drift": curves(factors, look, "step", xlabel="steps", floor=BALANCED, **drift),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def curves(
    variants: Sequence[Variant],
    look: Row,
    axis: str,
    *,
    column: str,
    xlabel: str,
    ylabel: str,
    title: str,
    level: float = math.nan,
    floor: float = FLOOR,
) -> Figure | None:
    """`column` against `axis` at tuned steps, log-log: every seed thin, the median thick and marked. Steps begin at 0,
    where their axis is linear. `level` is zero-shot's, what is below `floor` is drawn there."""
    groups = panels(variants)
    heights = [max(5.6 / len(groups), 0.7 + 0.22 * len(group)) for group in groups]  # a legend line each
    figure = Figure(figsize=(10.5, sum(heights)), layout="constrained")
    grid = {"sharex": True, "sharey": True, "squeeze": False, "height_ratios": heights}
    scales = {"xscale": "symlog" if axis == "step" else "log", "yscale": "log"}
    places = list(figure.subplots(len(groups), 1, subplot_kw=scales, **grid).flat)
    places[0].set_title(title)
    places[-1].set_xlabel(xlabel)
    seen: list[float] = []
    for axes, group in zip(places, groups, strict=True):
        axes.set_ylabel(ylabel)
        for variant in group:
            shape = look[variant.label]
            seen += _curve(axes, variant, axis, column, shape, top=30 * level, floor=floor)
            axes.plot([], [], label=_legend(variant), markersize=5, **shape)
    if not seen:
        return None
    for axes in places:
        _frame(axes, min(seen), max(seen), level)
    return figure


def panels(variants: Sequence[Variant]) -> list[list[Variant]]:
    """One panel, or one of the implicit variants and one of the others where they would crowd it."""
    implicit, others = ([v for v in variants if v.runs[0].implicit is kind] for kind in (True, False))
    return [implicit, others] if implicit and others and len(variants) > CROWD else [list(variants)]


def _frame(axes: Axes, low: float, high: float, level: float) -> None:
    """Limits that show all curves, the level with its words, and the legend beside the panel."""
    if math.isfinite(level):
        low, high = min(low, level), min(max(high, level), 30 * level)
        axes.axhline(level, color="black", linestyle="--", linewidth=1, label=f"zero-shot, {short(level)}")
    axes.set_ylim(low / 2, high * 2)
    axes.grid(which="major", color="0.9", linewidth=0.6)
    place = {"loc": "upper left", "bbox_to_anchor": (1.005, 1.0), "borderaxespad": 0.0}
    axes.legend(title="variant, tuned step size", handlelength=4, frameon=False, **place)


def _legend(variant: Variant) -> str:
    if variant.tuned is None:
        return f"{variant.label}: refused"
    failed = ", diverged" if math.isinf(variant.held_out) else ""
    return f"{variant.label}, {power_of_ten(variant.tuned.step_size)}{failed}"


def _curve(
    axes: Axes, variant: Variant, axis: str, column: str, shape: Row, *, top: float, floor: float
) -> list[float]:
    """Draw one variant; return the finite values of its curves. A diverged seed ends in a cross, at `top` at most."""
    runs = variant.tuned.runs if variant.tuned else ()
    seen, records = list[float](), list[float]()
    for run in runs:
        x, y = run.curve(axis, column)
        drawn = np.isfinite(y) & ((x > 0) | (axis == "step"))
        x, y = x[drawn], np.maximum(y[drawn], floor)
        if x.size:
            seen, records = [*seen, *y.tolist()], [*records, *x.tolist()]
            axes.step(x, y, **shape | THIN)
            if run.failed:
                axes.plot(x[-1], np.fmin(y[-1], top), **shape | CROSS)
    if records:
        grid = np.unique(records) if axis == "step" else np.geomspace(min(records), max(records), 200)
        middle = np.median([run.at(axis, grid, column) for run in runs], axis=0)
        kept = np.isfinite(middle)
        axes.step(grid[kept], np.maximum(middle[kept], floor), **shape | THICK)
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
    top = zero_shot if zero_shot > 0 else 1.0
    norm = LogNorm(top * 10.0**-DECADES, top, clip=True)
    size = max(4.9 + 0.64 * len(steps), 9.8), 1.8 + 0.46 * len(variants)  # at least as wide as the legend
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
    figure.colorbar(mesh, label="median relative L2, up to zero-shot", extend="both")
    works = Patch(
        facecolor="none", edgecolor=COLOURS[0], linewidth=2.4, label="works: all its runs below zero-shot / 4"
    )
    hatched = Patch(facecolor="0.93", edgecolor="0.55", hatch="//", label="div k/n: k of n seeds diverged")
    star = Line2D([], [], linestyle="none", marker="$★$", color="black", label=f"tuned step size{_seeds(variants)}")
    figure.legend(handles=[works, hatched, star], loc="outside lower center", ncols=3, frameon=False)
    return figure


def _seeds(variants: Sequence[Variant]) -> str:
    """How many seeds the tuned cells and the others have, where these differ."""
    tuned = {len(variant.tuned.runs) for variant in variants if variant.tuned}
    others = {len(cell.runs) for variant in variants for cell in variant.cells if cell is not variant.tuned}
    told = lambda counts: " to ".join(str(count) for count in sorted({min(counts), max(counts)}))  # noqa: E731
    return f" ({told(tuned)} seeds; other cells {told(others)})" if others and tuned != others else ""


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
    for variant, run in drawn(variants):
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


def drawn(variants: Sequence[Variant]) -> list[tuple[Variant, Run]]:
    """The three best variants of a case, by held-out loss, with the run of each whose field is shown."""
    typical = ((variant, _typical(variant)) for variant in variants)
    return [(variant, run) for variant, run in typical if run][:3]


def _typical(variant: Variant) -> Run | None:
    """The tuned run with a field whose held-out loss is the (lower) median; none for a variant that diverged."""
    if variant.tuned is None or math.isinf(variant.held_out):
        return None
    shape = variant.case.grid["reference"].shape if "reference" in variant.case.grid else None
    runs = sorted(variant.tuned.runs, key=lambda run: run.loss)
    stored = [run for run in runs if arrays(run.folder / "field.npz").get("prediction", np.empty(0)).shape == shape]
    return stored[(len(stored) - 1) // 2] if stored else None


def embed(figure: Figure, path: Path, *, limit: int) -> str:
    """Write `path` (PNG); return a data URI of the figure: SVG within `limit` bytes, else a smaller PNG."""
    with style.context(["default", STYLE]):
        path.write_bytes(_png(figure, dpi=144, colours=256))
        figure.set_layout_engine("none")  # it is laid out by now: a layout takes as long as the drawing
        figure.savefig(vector := io.BytesIO(), format="svg", metadata={"Date": None})
        kind, small = "svg+xml", vector.getvalue()
        if len(small) > limit:
            kind, small = "png", _png(figure, dpi=92, colours=128)
    return f"data:image/{kind};base64,{base64.b64encode(small).decode()}"


def _png(figure: Figure, *, dpi: int, colours: int) -> bytes:
    """A PNG with a palette, smaller than one in full colour."""
    pixels, small = io.BytesIO(), io.BytesIO()
    figure.savefig(pixels, format="png", dpi=dpi)
    with Image.open(pixels) as image:
        palette = image.convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(small, format="png", optimize=True)
    return small.getvalue()
