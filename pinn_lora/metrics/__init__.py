"""The metric F on weight space: which direction full fine-tuning would take, dW/dt = -F^-1 grad L. One file, one metric."""

from abc import ABC, abstractmethod

from torch import Tensor


class Metric(ABC):
    """A diagonal Kronecker metric F = Q (x) P on the weights (m, n) of a layer, held fixed within a step."""

    @abstractmethod
    def weights(self, B: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        """The diagonals P (m,) and Q (n,) for the layer whose factors are B (m, r), A (r, n)."""
