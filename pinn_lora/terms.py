"""What lies between a network's outputs and the loss: the components of one residual or condition at its points, and the
weighted sum of their squares with its derivative in the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from pinn_lora.fields import Coordinates, Field, pointwise
from pinn_lora.identity import Identified
from pinn_lora.jets import Indices, Jet
from pinn_lora.places import naming
from pinn_lora.problem import Problem


@dataclass(frozen=True)
class Among:
    """All points (N, d) of a term, one tensor a point set, and the first of the n that are taken of them.

    An operator that stands for all of these, as one with a value for each, is run at all of them: it is pointwise, so the
    fields may be anything at the others, and its components there are left out.
    """

    points: tuple[Tensor, ...]
    names: tuple[str, ...]
    start: int

    def all(self, sets: Sequence[tuple[Coordinates, Sequence[Field]]]) -> list[tuple[Coordinates, list[Field]]]:
        """All points with the fields at the n, zero at the others."""
        return [
            (Coordinates(points.unbind(1), self.names), [self._wide(field, len(points)) for field in u])
            for points, (_, u) in zip(self.points, sets, strict=True)
        ]

    def _wide(self, field: Field, count: int) -> Field:
        jet = field.jet
        after = count - self.start - jet.data.shape[1]
        return Field(torch.nn.functional.pad(jet.data, (self.start, after)), jet.indices, self.names)


@dataclass(frozen=True)
class Term:
    """One residual or condition: f gets weight / N sum_i r_k(i)^2 for each component k of `operator`, which is run at these
    points alone, or at all where `among` says that it must."""

    name: str
    operator: Callable
    weight: float
    indices: Indices
    paired: bool
    place: str = ""  # the file and line it was made in
    among: Among | None = None

    def run(self, sets: Sequence[tuple[Coordinates, Sequence[Field]]]) -> list[Tensor]:
        """The components (N,), from coordinates and fields at one point set, or at two where `paired`."""
        n = sets[0][1][0].jet.data.shape[1]
        if self.among is not None:
            own = slice(self.among.start, self.among.start + n)
            return [r[own] for r in pointwise(self._run(self.among.all(sets)), len(self.among.points[0]))]
        return list(pointwise(self._run(sets), n))

    def _run(self, sets: Sequence[tuple[Coordinates, Sequence[Field]]]) -> Any:
        if self.paired:
            return self.operator(*((p, *u) for p, u in sets))
        p, u = sets[0]
        return self.operator(p, *u)


@dataclass(frozen=True)
class PlacedTerm:
    """A term at its points (N, d), with the coordinates' jets, one entry a point set."""

    problem: Problem
    term: Term
    points: tuple[Tensor, ...]
    jets: tuple[list[Jet], ...]

    @classmethod
    def at(cls, problem: Problem, term: Term, points: Sequence[Tensor]) -> PlacedTerm:
        d = problem.domain.dimension
        return cls(
            problem, term, tuple(points), tuple([Jet.coordinate(p, i, term.indices) for i in range(d)] for p in points)
        )

    @cached_property
    def coordinates(self) -> list[Coordinates]:
        return [Coordinates(p.unbind(1), self.problem.domain.names) for p in self.points]

    @property
    def count(self) -> int:
        """The points of all sets together."""
        return len(self.jets) * self.jets[0][0].data.shape[1]

    def components(self, outputs: Tensor) -> list[Tensor]:
        """Every component (N,), from the outputs' jets (S, count, fields), one point set after the other."""
        solve, indices = self.problem.solution_jets, self.term.indices
        parts = outputs.chunk(len(self.jets), dim=1)
        fields = [solve(jets, part, indices) for jets, part in zip(self.jets, parts, strict=True)]
        with naming(self.problem, self.term.place):
            return self.term.run(list(zip(self.coordinates, fields, strict=True)))

    def squares(self, outputs: Tensor, weights: Tensor | float) -> tuple[Tensor, Tensor]:
        """The sum over components and points of w_i r_i^2, and its derivative in the outputs (S, count, fields)."""
        outputs = outputs.detach().requires_grad_()
        with torch.enable_grad():
            found = self.components(outputs)
        values = [r.detach() for r in found]
        total = torch.stack([(weights * r) @ r for r in values]).sum()
        return total, output_adjoint(found, outputs, [2.0 * weights * r for r in values])


def output_adjoint(
    found: Sequence[Tensor], outputs: Tensor, weights: Sequence[Tensor], *, keep: bool = False
) -> Tensor:
    """The derivative in the outputs of sum_k weights_k . r_k; `keep` where it is asked for again."""
    pairs = [(r, w) for r, w in zip(found, weights, strict=True) if r.requires_grad]
    if not pairs:  # no component sees the network
        return torch.zeros_like(outputs)
    seen, heavy = zip(*pairs, strict=True)
    return torch.autograd.grad(seen, outputs, heavy, retain_graph=keep)[0]


@lru_cache(maxsize=128)
def squares_of(known: Identified, name: str, indices: Indices, place: str) -> Callable[..., list[Tensor]]:
    """`PlacedTerm.squares` of a term that is not paired, as a function of tensors alone, (outputs, weights, points); one
    object for problems that are the same, whose kernels are found again."""
    problem = known.problem
    operator = {known: operator for known, operator, _ in problem.terms()}[name]
    term = Term(name, operator, 1.0, indices, paired=False, place=place)

    def squares(outputs: Tensor, weights: Tensor, points: Tensor) -> list[Tensor]:
        return list(PlacedTerm.at(problem, term, [points]).squares(outputs, weights))

    return squares
