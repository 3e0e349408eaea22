"""Products with the Jacobian J of the residuals at one theta, J v and J^T u, without J: by layers, from one linearisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp, vjp

from pinn_lora.lora import DenseBlock
from pinn_lora.passes import LayerPlan, layer_gradients
from pinn_lora.program import as_matrix


class ChunkProducts(Protocol):
    """A chunk's components `residuals` (C, n) at theta and the products with their Jacobian (C, n, P)."""

    residuals: Tensor

    @property
    def nbytes(self) -> int:
        """What keeping it takes."""
        ...

    def forward(self, v: Tensor) -> Tensor:
        """J v (C, n)."""
        ...

    def adjoint(self, u: Tensor, out: Tensor) -> None:
        """Adds J^T u to out (P,), for u (C, n)."""
        ...


@dataclass(frozen=True)
class JetProducts:
    """By the layers' inputs H and, of every component, adjoints D, which are kept: J v = sum_layers sum_s D_s . (dW H_s).

    With the factors of a pair dW = s (dB A + B dA) is never formed: D . (dB A H) = (dB^T D) . (A H). `layers`, `inputs` and
    each of `adjoints` are those of the trained layers; `slopes` (K, sets n) of each component those in alpha. Where a residual
    sees several point sets, they follow each other in H and D (S, sets n, units).
    """

    residuals: Tensor
    layers: Sequence[tuple[LayerPlan, tuple[Tensor, ...]]]
    inputs: Sequence[Tensor]
    adjoints: Sequence[Sequence[Tensor]]
    alpha: DenseBlock | None
    slopes: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for row in (self.inputs, *self.adjoints, self.slopes) for x in row)

    def forward(self, v: Tensor) -> Tensor:
        v, n = v.to(self.residuals), self.residuals.shape[1]
        found = []
        for c, adjoints in enumerate(self.adjoints):
            r = v.new_zeros(n)
            for (plan, factors), D, H in zip(self.layers, adjoints, self.inputs, strict=True):
                r += _layer_forward(plan, factors, D, H, v, n)
            if self.alpha is not None:
                r += (v[self.alpha.slice] @ self.slopes[c]).view(-1, n).sum(0)
            found.append(r)
        return torch.stack(found)

    def adjoint(self, u: Tensor, out: Tensor) -> None:
        u = u.to(self.residuals)
        sets = self.inputs[0].shape[1] // u.shape[1] if self.inputs else 1
        for i, ((plan, factors), H) in enumerate(zip(self.layers, self.inputs, strict=True)):
            parts = (adjoints[i] * c.repeat(sets)[:, None] for adjoints, c in zip(self.adjoints, u, strict=True))
            gradients = layer_gradients(plan, reduce(add, parts), H, factors)
            at = 0
            for block in plan.blocks:
                pieces = gradients[at : at + len(block.shapes)]
                out[block.slice] += torch.cat([piece.reshape(-1) for piece in pieces])
                at += len(pieces)
        if self.alpha is not None:
            for slopes, c in zip(self.slopes, u, strict=True):
                out[self.alpha.slice] += slopes @ c.repeat(slopes.shape[1] // len(c))


def _layer_forward(plan: LayerPlan, factors: tuple[Tensor, ...], D: Tensor, H: Tensor, v: Tensor, n: int) -> Tensor:
    """A layer's part of J v (n,) for one component."""
    steps = [block.split(v[block.slice]) for block in plan.blocks]
    D2, H2, terms = as_matrix(D), as_matrix(H), []
    if plan.pair is not None:
        (B, A), (dB, dA) = factors, steps.pop(0)
        terms.append(plan.pair.scale * (dB.T @ D2).mul_(A @ H2).add_((B.T @ D2).mul_(dA @ H2)))
    if plan.weight is not None:
        (dW,) = steps.pop(0)
        if plan.s is not None:  # W = diag(exp s) V: dW = diag(exp s) dV + diag(ds) W
            (ds,) = steps.pop(0)
            dW = factors[0][:, None] * dW + ds[:, None] * factors[1]
        terms.append((dW.T @ D2).mul_(H2) if len(H2) < len(D2) else (dW @ H2).mul_(D2))
    found = v.new_zeros(n)
    for term in terms:
        found += term.reshape(-1, n).sum(0)
    if plan.bias is not None:
        (db,) = steps.pop(0)
        found += (D[0] @ db).view(-1, n).sum(0)
    return found


@dataclass(frozen=True)
class FunctionalProducts:
    """By torch.func on the fields' values Y(theta), of which every residual component has the slopes dr/dY.

    values: of every point set theta -> (S, n, fields); slopes: of every point set (C, S, n, fields).
    """

    residuals: Tensor
    theta: Tensor
    values: Sequence[Callable[[Tensor], Tensor]]
    slopes: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.slopes)

    def forward(self, v: Tensor) -> Tensor:
        steps = [jvp(value, (self.theta,), (v.to(self.theta),))[1] for value in self.values]
        return sum((s * step).sum((1, 3)) for s, step in zip(self.slopes, steps, strict=True))  # type: ignore[return-value]

    def adjoint(self, u: Tensor, out: Tensor) -> None:
        for value, slopes in zip(self.values, self.slopes, strict=True):
            pull = vjp(value, self.theta)[1]
            out += pull(torch.einsum("csnf,cn->snf", slopes, u.to(slopes)))[0]


class Linearization:
    """R (N,) and the products J v (N,) and J^T u (P,) of an objective at one theta, in float64, over chunks of points.

    `chunks` make each chunk's products, `weights` are those of r^2 in f. As many as fit into `room` GiB are kept; the others
    are made again for every product, one at a time, which costs a forward and an adjoint pass more.
    """

    def __init__(
        self, chunks: Sequence[Callable[[], ChunkProducts]], weights: Sequence[float], size: int, *, room: float
    ) -> None:
        self.size, self.weights, self._chunks = size, weights, chunks
        self._kept: list[ChunkProducts] = []
        found, taken = [], 0
        for make in chunks:
            part = make()
            taken += part.nbytes
            if taken <= room * 2**30:
                self._kept.append(part)
            found.append(part.residuals.double())
        self.residuals = torch.cat([w**0.5 * r.reshape(-1) for r, w in zip(found, weights, strict=True)])

    @property
    def kept(self) -> int:
        """How many chunks are kept."""
        return len(self._kept)

    def _parts(self) -> Iterator[tuple[ChunkProducts, float]]:
        for i, (make, weight) in enumerate(zip(self._chunks, self.weights, strict=True)):
            yield (self._kept[i] if i < len(self._kept) else make()), weight

    def forward(self, v: Tensor) -> Tensor:
        return torch.cat([w**0.5 * part.forward(v).double().reshape(-1) for part, w in self._parts()])

    def adjoint(self, u: Tensor) -> Tensor:
        found, at = u.new_zeros(self.size), 0
        for part, w in self._parts():
            place = slice(at, at := at + part.residuals.numel())
            part.adjoint(w**0.5 * u[place].view(part.residuals.shape), found)
        return found

    def normal(self, v: Tensor) -> Tensor:
        """J^T J v, in one pass over the chunks."""
        found = torch.zeros_like(v)
        for part, w in self._parts():
            part.adjoint(w * part.forward(v), found)
        return found
