"""Rank against distance: the error of members adapted straight from the base, over their distance, a line a rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pinn_lora.cells import median, number
from pinn_lora.families.figures import MEASURES, ZERO_SHOT
from pinn_lora.families.rank_report import ranks_of
from pinn_lora.families.rows import WORKS, Row, error_in, place_of
from pinn_lora.figures import MARKERS

GAP, MOST_NAMES = 0.032, 26  # between the names of members, in widths of a panel; with more they would not fit
ASIDE = 0.025  # between members at the same distance, in widths of the range of distances


def plot_ranks(rows: Sequence[Row], varied: Sequence[str], *, base: Row, key: str) -> Figure:
    """The error (median over seeds) over the distance from the base, a line a rank; zero-shot dashed, a quarter of it dotted.

    rows: of `rank_rows`. base: the base's coefficients. Where one coefficient varies, what lies below the base and what lies
    above it have a panel each: they are different problems at the same distance. A run that diverged is a cross at the top.
    """
    sides = _sides(rows, varied, base)
    width, height = 7.8 if len(sides) == 1 else 11.4, 5.2
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.8 / width, 0.6 / height, 1 - 2.1 / width, 1 - 1.1 / height, wspace=0.08)
    panels = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for axes, (title, own) in zip(panels, sides.items(), strict=True):
        axes.set_yscale("log")
        _panel(axes, own, varied, key, ranks_of(rows))
        axes.set_xlabel("distance from the base" + title)
        axes.grid(alpha=0.25, which="major")
    panels[0].set_ylabel(MEASURES[key][1])
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes, own in zip(panels, sides.values(), strict=True):
        places = _places(own, varied)
        lost = [places[place_of(row, varied)] for row in own if math.isinf(error_in(row, key))]
        axes.plot(lost, [top] * len(lost), "x", color="black", markersize=8, clip_on=False)
        _names(axes, places, varied)
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
    return figure


def _sides(rows: Sequence[Row], varied: Sequence[str], base: Row) -> dict[str, list[Row]]:
    """The rows of each panel by what its axis says beside the distance."""
    if len(varied) != 1:
        return {"": list(rows)}
    name = varied[0]
    told = f"{base[name]:.4g}"
    sides = {f": {name} below {told}": [row for row in rows if row[name] < base[name]]}
    sides |= {f": {name} above {told}": [row for row in rows if row[name] > base[name]]}
    return {title: own for title, own in sides.items() if own}


def _panel(axes: Axes, rows: Sequence[Row], varied: Sequence[str], key: str, ranks: Sequence[int]) -> None:
    places = _places(rows, varied)

    def medians(own: Sequence[Row], value: Callable[[Row], float]) -> tuple[list[float], list[float]]:
        """Where the members stand, and the median of each; a gap where it is not finite."""
        drawn = [place for place in places if any(place_of(row, varied) == place for row in own)]
        middle = [median(value(row) for row in own if place_of(row, varied) == place) for place in drawn]
        return [places[place] for place in drawn], [y if math.isfinite(y) else math.nan for y in middle]

    at, zero_shot = medians(rows, lambda row: number(row[MEASURES[key][0]]))
    axes.plot(at, zero_shot, color=ZERO_SHOT, linestyle="--", label="zero-shot:\nthe base unchanged")
    quarter = [WORKS * value for value in zero_shot]
    axes.plot(at, quarter, color=ZERO_SHOT, linestyle=":", label="a quarter of it:\nabove, it does\nnot carry over")
    for number_of, rank in enumerate(ranks):
        shade = colormaps["viridis"](0.88 * (1 - number_of / max(len(ranks) - 1, 1)))
        own = [row for row in rows if row["rank"] == rank]
        look = {"color": shade, "marker": MARKERS[number_of % len(MARKERS)], "markersize": 6, "linewidth": 1.0}
        axes.plot(*medians(own, lambda row: error_in(row, key)), label=f"rank {rank}", **look)


def _places(rows: Sequence[Row], varied: Sequence[str]) -> dict[tuple, float]:
    """Where every member stands, in order: at its distance, or beside it where several members have the same."""
    members = sorted({(row["distance"], place_of(row, varied)) for row in rows})
    span = members[-1][0] - members[0][0] or 1.0
    found = {}
    for distance, place in members:
        same = [other for far, other in members if math.isclose(far, distance, rel_tol=1e-9)]
        found[place] = distance + ASIDE * span * (same.index(place) - (len(same) - 1) / 2)
    return found


def _names(axes: Axes, places: dict[tuple, float], varied: Sequence[str]) -> None:
    """The members' coefficients above the panel, moved apart where they would overlap, each with a line to its place."""
    if len(places) > MOST_NAMES:
        return
    left, right = axes.get_xlim()
    wanted = [(at - left) / (right - left) for at in places.values()]
    for x, (place, at) in zip(_apart(wanted), places.items(), strict=True):
        text = ", ".join(f"{value:.3g}" for value in place)
        look = {"xycoords": axes.get_xaxis_transform(), "textcoords": axes.transAxes, "rotation": 90, "fontsize": 8}
        line = {"arrowstyle": "-", "color": "0.7", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(text, (at, 1.0), (x, 1.07), ha="center", va="bottom", arrowprops=line, **look)
    if axes.get_subplotspec().colspan.start == 0:  # type: ignore[union-attr]
        axes.annotate(", ".join(varied), (-0.01, 1.07), xycoords="axes fraction", ha="right", va="bottom", fontsize=8)


def _apart(wanted: Sequence[float]) -> list[float]:
    """Places in order, at least GAP apart: moved to the right where needed, and back where that leads past the panel."""
    found = list(wanted)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + GAP)
    return [min(x, 1.0 - GAP * (len(found) - 1 - i)) for i, x in enumerate(found)]
