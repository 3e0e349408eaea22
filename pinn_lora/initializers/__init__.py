"""Where the factors start. Every file of this folder is one start; its stem is its name."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Initializer(ABC):
    """A rule for the first factors of a layer. A start with B A != 0 is subtracted from the layer, so that the adapted
    network begins as the base."""

    @abstractmethod
    def factors(self, weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """B (m, r) and A (r, n) in float64 for a layer of the given weight (m, n)."""
