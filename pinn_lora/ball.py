"""A ball as a domain, in any number of dimensions, where hardly any of a box's points would lie inside."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pinn_lora.domain import Domain


class Ball(Domain):
    """|x| <= radius about the origin in the coordinates `names`, times an interval of time where `t` is given.

    Points are a design of the unit cube brought to the ball: directions by the normal distribution's quantiles, radii by
    u^(1/d). `lower` and `upper` are the box around it. ValueError for a radius that is not positive.
    """

    def __init__(self, names: Sequence[str], *, radius: float = 1.0, t: tuple[float, float] | None = None) -> None:
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"the radius of a ball is {radius}; it must be a positive number")
        super().__init__(**dict.fromkeys(names, (-radius, radius)), **({} if t is None else {"t": t}))
        self.radius, self.d = float(radius), len(names)

    def __repr__(self) -> str:
        return f"Ball{super().__repr__().removeprefix('Domain')}"

    def contains(self, points: Tensor) -> Tensor:
        return super().contains(points) & (points[:, : self.d].norm(dim=1) <= (1.0 + 1e-9) * self.radius)

    def sample(self, n: int, *, seed: int = 0, design: str = "sobol") -> Tensor:
        directions, u, time = self._draw(n, seed, design)
        return torch.cat([self.radius * u ** (1.0 / self.d) * directions, time], dim=1)

    def sample_face(self, n: int, *, coordinate: str, side: str, seed: int = 0) -> Tensor:
        """Points at one end of time; ValueError for another coordinate, in which a ball has no face."""
        if self.number(coordinate) < self.d:
            raise ValueError(f"a ball has no face {coordinate} = {side}; take on='boundary'")
        return super().sample_face(n, coordinate=coordinate, side=side, seed=seed)

    def sample_boundary(self, n: int, *, seed: int = 0) -> Tensor:
        """n points on the sphere, at all times."""
        directions, _, time = self._draw(n, seed, "sobol")
        return torch.cat([self.radius * directions, time], dim=1)

    def _draw(self, n: int, seed: int, design: str) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (n, d), numbers of [0, 1] (n, 1) and instants (n, 0 or 1)."""
        cube = Domain(**{f"u{i}": (0.0, 1.0) for i in range(len(self.names) + 1)})
        unit = cube.sample(n, seed=seed, design=design)
        normal = torch.special.ndtri(unit[:, : self.d].clamp(1e-16, 1.0 - 1e-16))
        times = [lower + (upper - lower) * unit[:, self.d + 1 :] for lower, upper in self._time()]
        return (
            normal / normal.norm(dim=1, keepdim=True),
            unit[:, self.d : self.d + 1],
            torch.cat([unit[:, :0], *times], 1),
        )

    def _time(self) -> list[tuple[float, float]]:
        return list(zip(self.lower, self.upper, strict=True))[self.d :]
