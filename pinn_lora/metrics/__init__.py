"""The metric F on weight space: which direction full fine-tuning would take, dW/dt = -F^-1 grad L. One file, one metric."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """The diagonals P (m,) and Q (n,) of F = Q (x) P, which maps a direction D (m, n) to diag(P) D diag(Q)."""

    P: Tensor
    Q: Tensor


class Energies(NamedTuple):
    """Of a layer's gradient G (m, n): sum_j G_ij^2 (m,) and sum_i G_ij^2 (n,)."""

    rows: Tensor
    columns: Tensor


class Metric(ABC):
    """A diagonal Kronecker metric on every adapted layer. One that `learns` keeps a history of the gradient's energies for
    each layer, which changes between steps only; `source` says whose energies: "factors" those of the gradient as the
    factors see it, its projection on the tangent space of rank r, at O((m+n) r^2); "dense" those of G itself, an m x n matrix.
    """

    learns: ClassVar[bool] = True
    source: str = "factors"

    @property
    def dense(self) -> bool:
        """Whether it asks for G itself."""
        return self.learns and self.source == "dense"

    @property
    def cost(self) -> str:
        """What it takes beside the factors' gradient."""
        return ("G itself, O(m n r)" if self.dense else "O((m+n) r^2 + r^3)") if self.learns else ""

    def observe(self, history: Energies | None, count: int, found: Energies) -> Energies:
        """The history after the energies at the `count`-th step, from 1."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    @abstractmethod
    def weights(self, history: Energies | None, count: int, B: Tensor, A: Tensor) -> Weights:
        """P and Q after `count` observations for the layer whose factors are B (m, r), A (r, n)."""
