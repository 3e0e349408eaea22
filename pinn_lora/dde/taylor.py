"""Residuals that are written with autograd: fields whose derivatives are known, as tensors that it differentiates.

Code that takes its derivatives by `torch.autograd.grad(y, x)` runs on these as it is, and gets the derivatives that came
through the network with the value; the network is not differentiated again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pinn_lora.fields import Field
from pinn_lora.jets import Index, Indices, Jet, closure

HIGHEST = 6  # order of a derivative


class _Slope(torch.autograd.Function):
    """Zero (N,) at points x (N, d), with derivative(j) (N,) as its derivative in coordinate j."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Callable[[int], Tensor]) -> Tensor:
        ctx.derivative, ctx.dimension = derivative, x.shape[1]
        return x.new_zeros(len(x))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        return torch.stack([given[0] * ctx.derivative(j) for j in range(ctx.dimension)], dim=1), None


def differentiable(x: Tensor, jets: Sequence[Jet], beyond: list[Index] | None = None) -> Tensor:
    """y (N, k), the values of k jets at points x (N, d) that require a gradient: autograd's derivatives of y in x, of any order
    and of any expression of them, are the jets' own. One that they do not hold is zero, and is noted in `beyond`."""

    def derivative(jet: Jet, index: Index) -> Tensor:
        index = tuple(sorted(index))
        held = index in jet.indices
        if not held and beyond is not None:
            beyond.append(index)
        value = jet.data[jet.indices.index(index)] if held else torch.zeros_like(jet.data[0])
        return value + _Slope.apply(x, lambda j: derivative(jet, (*index, j)))

    return torch.stack([derivative(jet, ()) for jet in jets], dim=1)


@dataclass(frozen=True)
class AutogradOperator:
    """call(x, y), of points (N, d) and outputs (N, k) and with one or several tensors of N rows, as an operator of ours: of
    (p, *u), or of two such tuples, whose rows then follow each other.

    `names` are the coordinates'. A mean over m columns is a sum of the columns' means, so each is divided by m^1/2. `home`: it
    has tensors of its own, which lie where torch makes new ones, so it runs there.
    """

    call: Callable[[Tensor, Tensor], Any]
    names: tuple[str, ...]
    home: bool = False

    def __call__(self, *given: Any) -> tuple[Tensor, ...]:
        sets = given if isinstance(given[0], tuple) else (given,)
        points = [torch.stack([getattr(p, name) for name in self.names], dim=1) for p, *_ in sets]
        fields = zip(*(u for _, *u in sets), strict=True)
        return self._columns(points, [self._joined(same) for same in fields])

    @staticmethod
    def _joined(same: Sequence[Field]) -> Jet:
        jets = [field.jet for field in same]
        return Jet(torch.cat([jet.data for jet in jets], dim=1), jets[0].indices)

    def _columns(
        self, points: Sequence[Tensor], jets: Sequence[Jet], beyond: list[Index] | None = None
    ) -> tuple[Tensor, ...]:
        watched, device = torch.is_grad_enabled(), points[0].device
        with torch.enable_grad():
            x = torch.cat(list(points)).detach()
            if self.home:
                x = x.to(torch.get_default_device())
                jets = [Jet(jet.data.to(x.device), jet.indices) for jet in jets]
            x.requires_grad_()
            found = self.call(x, differentiable(x, jets, beyond))
        columns: list[Tensor] = []
        for part in found if isinstance(found, (list, tuple)) else [found]:
            if not isinstance(part, Tensor) or not part.dim():
                raise ValueError(f"{_named(part)} is returned where a tensor with a row for each point is due")
            part = part.to(device=device, dtype=x.dtype).reshape(len(part), -1)
            if not part.shape[1]:
                raise ValueError(f"a column beyond the {len(jets)} outputs is asked for")
            columns += (part / math.sqrt(part.shape[1])).unbind(1)
        return tuple(r if watched else r.detach() for r in columns)

    def rows(self, points: Tensor, outputs: int) -> int:
        """How many rows it has at points (N, d)."""
        indices = _up_to(2, points.shape[1])
        return len(self._columns([points], [_random(indices, points, seed=k) for k in range(outputs)])[0])

    def needed(self, points: Tensor, outputs: int, *, rows: int) -> Indices:
        """The derivatives that its `rows` rows at points (N, d) depend on, closed downwards, as seen at random fields.
        ValueError for another number of rows, and where one depends on the fields at the points of others."""
        for order in range(1, HIGHEST + 1):
            indices, beyond = _up_to(order, points.shape[1]), []
            jets = [_random(indices, points, seed=k) for k in range(outputs)]
            with torch.enable_grad():
                found = self._columns([points], jets, beyond)
            if not beyond:
                break
        wrong = next((len(r) for r in found if len(r) != rows), None)
        if wrong is not None:
            raise ValueError(f"a residual of {rows} points must have {rows} rows, not {wrong}")
        self._check_rows(points, jets, found)
        reached: set[Index] = set()
        for r, jet in itertools.product(found, jets):
            slope = (
                torch.autograd.grad(r.sum(), jet.data, retain_graph=True, allow_unused=True)[0]
                if r.requires_grad
                else None
            )
            if slope is not None:
                reached |= {index for index, seen in zip(indices, (slope != 0).any(1).tolist(), strict=True) if seen}
        return closure(reached)

    def _check_rows(self, points: Tensor, jets: Sequence[Jet], found: Sequence[Tensor]) -> None:
        """Every other row of the fields is changed; the rows between must not notice."""
        changed = []
        for jet in jets:
            data = jet.data.detach().clone()
            data.view(len(data), -1, len(found[0]))[..., 1::2] += 1.0  # of both sets, where it compares two
            changed.append(Jet(data, jet.indices))
        for r, other in zip(found, self._columns([points], changed), strict=True):
            if not torch.equal(r.detach()[::2].nan_to_num(), other.detach()[::2].nan_to_num()):
                raise ValueError("a row of the residual depends on the fields at other points than its own")


def _named(found: Any) -> str:
    return "a tensor without rows" if isinstance(found, Tensor) else f"a {type(found).__name__}"


def _up_to(order: int, dimension: int) -> Indices:
    return closure(itertools.combinations_with_replacement(range(dimension), order))


def _random(indices: Indices, points: Tensor, *, seed: int) -> Jet:
    """Values of either sign, from a tenth to ten: a term is not overlooked because a branch is not taken."""
    generator = torch.Generator().manual_seed(1000 + seed)
    shape, options = (len(indices), len(points)), {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    size = 10.0 ** (2.0 * torch.rand(shape, **options) - 1.0)
    sign = torch.where(torch.rand(shape, **options) < 0.5, -1.0, 1.0)
    return Jet((size * sign).to(points).requires_grad_(), indices)
