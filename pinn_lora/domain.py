"""Where a problem lives: named coordinates, a box, and points sampled inside it and on its faces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pydoe
import torch
from torch import Tensor

DESIGNS = ("sobol", "latin_hypercube", "uniform")
BOUNDARY = "boundary"  # in place of a coordinate: all of the boundary but the ends of time
PROBED = 4096  # points that tell which share of a box lies inside a domain


class Domain:
    """A box of named coordinates, `Domain(x=(-1, 1), t=(0, 1))`; a coordinate called t is time.

    Raises ValueError for a coordinate without room between its bounds.
    """

    def __init__(self, **bounds: tuple[float, float]) -> None:
        if not bounds:
            raise ValueError("a domain needs at least one coordinate, for example Domain(x=(-1, 1), t=(0, 1))")
        for name, given in bounds.items():
            try:
                lower, upper = (float(bound) for bound in given)
            except (TypeError, ValueError):
                say = f"coordinate {name} has bounds {given!r:.60}; give two numbers, as {name}=(0.0, 1.0)"
                raise ValueError(say) from None
            if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
                raise ValueError(f"coordinate {name} has bounds ({lower}, {upper}); give finite lower < upper")
        self.names = tuple(bounds)
        self.lower = tuple(float(lower) for lower, _ in bounds.values())
        self.upper = tuple(float(upper) for _, upper in bounds.values())

    def __repr__(self) -> str:
        inside = ", ".join(f"{n}=({a:g}, {b:g})" for n, a, b in zip(self.names, self.lower, self.upper, strict=True))
        return f"Domain({inside})"

    @property
    def dimension(self) -> int:
        return len(self.names)

    def number(self, name: str) -> int:
        """The place of a coordinate; ValueError names the valid ones."""
        if name not in self.names:
            raise ValueError(f"there is no coordinate {name!r} (coordinates: {', '.join(self.names)})")
        return self.names.index(name)

    def contains(self, points: Tensor) -> Tensor:
        """Whether points (n, d) lie in the box or on its faces, up to rounding: (n,), bool."""
        lower, upper = (
            torch.tensor(bound, dtype=points.dtype, device=points.device) for bound in (self.lower, self.upper)
        )
        slack = 1e-9 * (upper - lower)
        return ((points >= lower - slack) & (points <= upper + slack)).all(dim=1)

    def spell(self, point: Sequence[float] | Tensor) -> str:
        """A point (d,) in words: "x = 0.2, t = 0"."""
        return ", ".join(f"{name} = {float(x):.4g}" for name, x in zip(self.names, point, strict=True))

    def sample(self, n: int, *, seed: int = 0, design: str = "sobol") -> Tensor:
        """n points (n, d) in the box, float64; the same seed gives the same points and no global state is touched."""
        return self._scale(_unit_design(n, self.dimension, seed=seed, design=design))

    def sample_face(self, n: int, *, coordinate: str, side: str, seed: int = 0) -> Tensor:
        """n points (n, d) on the face where `coordinate` is at its "lower" or "upper" bound."""
        number, bounds = self.number(coordinate), {"lower": self.lower, "upper": self.upper}
        if side not in bounds:
            raise ValueError(f"there is no side {side!r} (choices: {', '.join(bounds)})")
        points = self.sample(n, seed=seed)
        points[:, number] = bounds[side][number]
        return points

    def sample_boundary(self, n: int, *, seed: int = 0) -> Tensor:
        """About n points (n, d) on the boundary: as many on each face of every coordinate but t."""
        faces = [(name, side) for name in self.names if name != "t" for side in ("lower", "upper")]
        if not faces:
            raise ValueError("this domain has no boundary beside the ends of time; take on='t'")
        share = max(1, n // len(faces))
        parts = [self.sample_face(share, coordinate=c, side=s, seed=seed + i) for i, (c, s) in enumerate(faces)]
        return torch.cat(parts)

    def grid(self, n: int | tuple[int, ...] = 101) -> tuple[list[np.ndarray], Tensor]:
        """The axes of a regular grid, bounds included, and its points in the domain (at most prod n, d), last coordinate
        fastest."""
        sizes = (n,) * self.dimension if isinstance(n, int) else n
        axes = [np.linspace(a, b, k) for a, b, k in zip(self.lower, self.upper, sizes, strict=True)]
        points = _mesh(axes)
        return axes, points[self.contains(points)]

    def image(self, axes: list[np.ndarray], values: np.ndarray) -> np.ndarray:
        """Values (n,) at the points of a grid as an array over its axes, nan outside of the domain."""
        found = np.full([len(axis) for axis in axes], np.nan)
        found.ravel()[self.contains(_mesh(axes)).numpy()] = values
        return found

    def _scale(self, unit: np.ndarray) -> Tensor:
        lower, upper = np.asarray(self.lower), np.asarray(self.upper)
        return torch.from_numpy(lower + (upper - lower) * unit)


def _mesh(axes: list[np.ndarray]) -> Tensor:
    mesh = np.meshgrid(*axes, indexing="ij")
    return torch.from_numpy(np.stack([m.ravel() for m in mesh], axis=1))


def first_inside(
    draw: Callable[[int], Tensor], inside: Callable[[Tensor], Tensor], n: int, *, least: float, refused: str
) -> Tensor:
    """The first n inside of the points draw(m) (m, d), with m hardly larger than need be. ValueError `refused` where fewer
    than the share `least` of all points are inside."""
    share = float(inside(draw(PROBED)).double().mean())
    if share < least:
        raise ValueError(refused)
    m = math.ceil(n / share)
    while True:
        points = draw(m)
        kept = points[inside(points)]
        if len(kept) >= n:
            return kept[:n]
        m += math.ceil(0.1 * m)


def _unit_design(n: int, dimension: int, *, seed: int, design: str) -> np.ndarray:
    if n < 1:
        raise ValueError(f"{n} points were asked for; at least 1 is needed")
    if design == "sobol":
        return pydoe.sobol_sequence(n, dimension, scramble=True, seed=seed, use_pow_of_2=False)
    if design == "latin_hypercube":
        return pydoe.lhs(dimension, samples=n, seed=seed)
    if design == "uniform":
        return np.random.default_rng(seed).random((n, dimension))
    raise ValueError(f"there is no design {design!r} (choices: {', '.join(DESIGNS)})")
