"""A picture of one solution, for `Solution.plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure


def plot_solution(
    path: str | Path,
    *,
    axes: Sequence[np.ndarray],
    names: Sequence[str],
    value: np.ndarray,
    reference: np.ndarray | None,
    label: str,
    title: str,
) -> Path:
    """Writes the field (n0, n1) over its two coordinates and, with a reference, its absolute error on a log scale; what is
    nan in the reference lies outside of the domain."""
    path = Path(path)
    panels = 1 if reference is None else 2
    figure = Figure(figsize=(1.0 + 5.2 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(1, panels, squeeze=False)[0]
    drawn = places[0].pcolormesh(axes[1], axes[0], value, cmap="RdBu_r", shading="nearest", rasterized=True)
    figure.colorbar(drawn, ax=places[0], label=label)
    places[0].set_title("solution")
    if reference is not None:
        error = np.abs(value - reference)
        top = float(np.nanmax(error)) or 1.0
        norm = LogNorm(vmin=top * 1e-4, vmax=top)
        drawn = places[1].pcolormesh(
            axes[1],
            axes[0],
            np.maximum(error, top * 1e-4),
            cmap="viridis",
            norm=norm,
            shading="nearest",
            rasterized=True,
        )
        figure.colorbar(drawn, ax=places[1], label=f"|{label} - reference|")
        inside = np.isfinite(reference)
        size = np.linalg.norm(reference[inside])
        relative = f", relative L2 {np.linalg.norm(error[inside]) / size:.1e}" if size else ""
        places[1].set_title(f"error{relative}")
    for place in places:
        place.set_xlabel(names[1])
        place.set_ylabel(names[0])
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    return path
