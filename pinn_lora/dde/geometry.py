"""Domains that are no boxes: any geometry of DeepXDE, alone or times an interval of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinn_lora.dde.load import load_deepxde, seeded, without_warnings
from pinn_lora.domain import Domain, first_inside


class GeometryDomain(Domain):
    """A `deepxde.geometry` object, or a GeometryXTime, with names for its coordinates; the last one of the latter is time.

    `lower` and `upper` are the bounding box. Points are the design in the box, without those that lie outside; those on the
    boundary are drawn by the geometry. Of a PointCloud they are its own points, repeated where more are asked for.
    names: x, y, z (x1, x2, ... from four on) and t where not given. ValueError for what is no geometry, and for names of
    another number.
    """

    def __init__(self, geometry: Any, names: Sequence[str] | None = None) -> None:
        self.geometry, self.time = geometry, getattr(geometry, "timedomain", None)
        self.space = geometry if self.time is None else geometry.geometry
        if not all(hasattr(self.space, part) for part in ("inside", "on_boundary", "bbox", "dim")):
            raise ValueError(f"{geometry!r} is no domain; give a pinn_lora.Domain or a geometry of DeepXDE")
        self._cloud = getattr(self.space, "points", None)  # of a PointCloud
        parts = [_box(self.space)] if self.time is None else [_box(self.space), self.time.bbox]
        lower, upper = (np.concatenate([np.ravel(part[side]) for part in parts]) for side in (0, 1))
        names = tuple(names) if names is not None else self._default_names()
        if len(set(names)) != len(lower):
            raise ValueError(f"{type(self.space).__name__} has {len(lower)} coordinates, and the names are {names}")
        super().__init__(**{name: (float(a), float(b)) for name, a, b in zip(names, lower, upper, strict=True)})

    def _default_names(self) -> tuple[str, ...]:
        d = int(self.space.dim)
        if d == 1 and hasattr(self.space, "t0"):  # a TimeDomain by itself: an ordinary differential equation
            return ("t",)
        space = ("x", "y", "z")[:d] if d <= 3 else tuple(f"x{i + 1}" for i in range(d))
        return space if self.time is None else (*space, "t")

    def __repr__(self) -> str:
        return f"{type(self.space).__name__}{super().__repr__().removeprefix('Domain')}"

    def contains(self, points: Tensor) -> Tensor:
        """Whether points (n, d) lie inside or, up to the geometry's own tolerance, on its boundary. Of a PointCloud: in its
        bounding box."""
        found = super().contains(points)
        if self._cloud is None:
            found &= (self._where(self.space.inside, points) | self._on_boundary(points)).to(found.device)
        return found

    def grid(self, n: int | tuple[int, ...] = 101) -> tuple[list[np.ndarray], Tensor]:
        if self._cloud is None:
            return super().grid(n)
        return [], self.sample(len(self._cloud))

    def _on_boundary(self, points: Tensor) -> Tensor:
        """Up to the geometry's own tolerance, which DeepXDE takes from the points' type: where corners are rounded to float32,
        as by its default, edges miss that of float64."""
        found = self._where(self.space.on_boundary, points)
        return found | self._where(self.space.on_boundary, points, np.float32) if _single(self.space) else found

    def _where(self, holds: Callable[[np.ndarray], Any], points: Tensor, kind: type = np.float64) -> Tensor:
        with without_warnings():
            found = holds(points[:, : int(self.space.dim)].double().cpu().numpy().astype(kind))
        return torch.from_numpy(np.asarray(found, dtype=bool).reshape(-1))

    def sample(self, n: int, *, seed: int = 0, design: str = "sobol") -> Tensor:
        box = super()
        if self._cloud is not None:
            points = box.sample(n, seed=seed, design=design)
            points[:, : self._cloud.shape[1]] = _of_cloud(self._cloud, n, seed)
            return points
        refused = (
            f"of the points drawn in its bounding box hardly any lie inside {self!r}; give one that has room inside"
        )
        draw = lambda m: box.sample(m, seed=seed, design=design)  # noqa: E731
        inside = lambda points: self._where(self.space.inside, points)  # noqa: E731
        return first_inside(draw, inside, n, least=1e-3, refused=refused)

    def sample_face(self, n: int, *, coordinate: str, side: str, seed: int = 0) -> Tensor:
        box = super()
        if self.time is not None and coordinate == self.names[-1]:
            return box.sample_face(n, coordinate=coordinate, side=side, seed=seed)
        plain = Domain(**dict(zip(self.names, zip(self.lower, self.upper, strict=True), strict=True)))

        def draw(m: int) -> Tensor:
            return plain.sample_face(m, coordinate=coordinate, side=side, seed=seed)

        refused = (
            f"hardly any point of the face {coordinate} = {side} of its bounding box lies on the boundary of {self!r}; "
            "take on='boundary', with where= for a part of it"
        )
        # its tolerance lets a few of a round one pass
        return first_inside(draw, self._on_boundary, n, least=0.02, refused=refused)

    def sample_boundary(self, n: int, *, seed: int = 0) -> Tensor:
        if n < 1:
            raise ValueError(f"{n} points were asked for; at least 1 is needed")
        cloud = getattr(self.space, "boundary_points", None)
        with seeded(seed):
            drawn = self.space.random_boundary_points(n) if cloud is None else _of_cloud(cloud, n, seed)
        points = torch.as_tensor(np.asarray(drawn, dtype=np.float64), device="cpu")
        if self.time is None:
            return points
        instants = Domain(t=(self.lower[-1], self.upper[-1])).sample(n, seed=seed)
        order = torch.randperm(
            n, generator=torch.Generator().manual_seed(seed), device="cpu"
        )  # the points may be in a row
        return torch.cat([points, instants[order]], dim=1)


def _box(space: Any) -> tuple[Any, Any]:
    """The lowest and the highest coordinates: `bbox`, but for an Ellipse, of which DeepXDE says centre - a and centre + b, so
    that a part of it sticks out, and for what is made of one."""
    kinds = load_deepxde().geometry
    if isinstance(space, kinds.Ellipse):
        along, across = ((r * np.cos(space.angle), r * np.sin(space.angle)) for r in (space.semimajor, space.semiminor))
        half = np.hypot(along, across[::-1])
        return space.center - half, space.center + half
    if not hasattr(space, "geom1"):
        return space.bbox
    (low, high), (other_low, other_high) = _box(space.geom1), _box(space.geom2)
    if isinstance(space, kinds.CSGUnion):
        return np.minimum(low, other_low), np.maximum(high, other_high)
    if isinstance(space, kinds.CSGIntersection):
        return np.maximum(low, other_low), np.minimum(high, other_high)
    return low, high


def _single(space: Any) -> bool:
    """Whether a geometry, or a part of it, keeps its numbers in float32."""
    if hasattr(space, "geom1"):
        return _single(space.geom1) or _single(space.geom2)
    return any(isinstance(held, np.ndarray) and held.dtype == np.float32 for held in vars(space).values())


def _of_cloud(cloud: np.ndarray, n: int, seed: int) -> Tensor:
    """n points of a cloud in a seeded order, each as often as the others, give or take one."""
    generator = np.random.default_rng(seed)
    rounds = [generator.permutation(len(cloud)) for _ in range(-(-n // len(cloud)))]
    return torch.from_numpy(np.asarray(cloud, dtype=np.float64)[np.concatenate(rounds)[:n]])
