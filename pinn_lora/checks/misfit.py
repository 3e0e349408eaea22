"""What a residual or a condition is at the reference, whose derivatives are taken by differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pinn_lora.checks.differences import difference
from pinn_lora.fields import Coordinates, Field
from pinn_lora.jets import Index, Indices
from pinn_lora.places import naming
from pinn_lora.problem import Problem
from pinn_lora.terms import Term

Sizes = Mapping[Index, np.ndarray]


@dataclass(frozen=True)
class Misfit:
    """One component r of a term at the reference, at `points` (n, d).

    `value` (n,) is r; `uncertain` (n,) by how much differencing may be wrong about it; `slopes` (S, fields, n) are |dr/du_a|
    for every derivative u_a of every field, and `parts` (S, fields, n) are dr/du_a u_a, the terms of r up to their powers.
    """

    points: Tensor
    value: np.ndarray
    uncertain: np.ndarray
    slopes: np.ndarray
    parts: np.ndarray

    def scale(self, indices: Indices, sizes: Sizes) -> float:
        """How large r would be if nothing in it cancelled: the root mean square of sum_a |dr/du_a| times u_a's size."""
        size = np.stack([sizes[index] for index in indices])
        return float(np.sqrt(np.mean(np.einsum("sfn,sf->n", self.slopes, size) ** 2)))


@dataclass(frozen=True)
class Reference:
    """The derivatives of a problem's reference, each taken once for a set of points."""

    problem: Problem
    _found: dict[tuple[bytes, Index], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def derivatives(self, points: Tensor, indices: Iterable[Index]) -> tuple[np.ndarray, np.ndarray]:
        """The derivatives (S, n, fields) at points (n, d), and by how much they are uncertain; nan where no difference fits
        into the domain."""
        found, domain, place = [], self.problem.domain, points.numpy().tobytes()
        for index in indices:
            if (place, index) not in self._found:
                self._found[place, index] = difference(self._values, points.numpy(), index, domain.lower, domain.upper)
            found.append(self._found[place, index])
        return np.stack([value for value, _ in found]), np.stack([spread for _, spread in found])

    def _values(self, x: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(x)
        found, inside = np.full((len(x), len(self.problem.fields)), np.nan), self.problem.domain.contains(points)
        found[inside.numpy()] = self.problem.reference_values(points[inside])
        return found

    def sizes(self, points: Tensor, indices: Iterable[Index]) -> dict[Index, np.ndarray]:
        """Root mean square (fields,) of the derivatives over the points."""
        chosen = tuple(dict.fromkeys(indices))
        data, _ = self.derivatives(points, chosen)
        return dict(zip(chosen, np.sqrt(np.nanmean(data**2, axis=1)), strict=True))

    def misfits(self, term: Term, sets: Sequence[Tensor]) -> list[Misfit]:
        """The term at the reference, one `Misfit` a component, at one set of points (n, d) or, where it is paired, at two;
        points where no difference fits into the domain are left out."""
        names, found = self.problem.domain.names, [self.derivatives(points, term.indices) for points in sets]
        kept = np.isfinite([data for data, _ in found]).all(axis=(0, 1, 3))
        points = [part[torch.from_numpy(kept)] for part in sets]
        leaves = [torch.from_numpy(data[:, kept]).requires_grad_() for data, _ in found]
        fields = [[Field(x, term.indices, names) for x in leaf.unbind(-1)] for leaf in leaves]
        with naming(self.problem, term.place), torch.enable_grad():
            at = [Coordinates.of(part, self.problem.domain) for part in points]
            components = term.run(list(zip(at, fields, strict=True)))
        return [_misfit(points[0], r, leaves, [spread[:, kept] for _, spread in found]) for r in components]


def _misfit(points: Tensor, r: Tensor, leaves: Sequence[Tensor], spreads: Sequence[np.ndarray]) -> Misfit:
    slopes = [torch.zeros_like(leaf) for leaf in leaves]
    if r.requires_grad:  # every point's r sees its own derivatives alone, so that the sum's gradient is theirs
        given = torch.autograd.grad(r.sum(), list(leaves), retain_graph=True, allow_unused=True)
        slopes = [zero if g is None else g for g, zero in zip(given, slopes, strict=True)]
    g = [slope.numpy().transpose(0, 2, 1) for slope in slopes]
    uncertain = sum(np.einsum("sfn,snf->n", np.abs(s), spread) for s, spread in zip(g, spreads, strict=True))
    parts = sum(s * leaf.detach().numpy().transpose(0, 2, 1) for s, leaf in zip(g, leaves, strict=True))
    return Misfit(
        points, r.detach().numpy(), np.asarray(uncertain), np.asarray(sum(np.abs(s) for s in g)), np.asarray(parts)
    )
