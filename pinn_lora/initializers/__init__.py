"""Where the factors start. Every file of this folder is one start; its stem is its name."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class Probe(NamedTuple):
    """What a batch of points says of a layer's weight W (m, n) at the base: G = dL/dW (m, n), and the Jacobian of the
    loss's stacked residuals R, dR_i/dW (N, m, n), in float64."""

    gradient: Tensor
    jacobian: Tensor


class Site(NamedTuple):
    """Where factors start: a layer's weight (m, n) in float64, the rank and the scale s of its adapter, a generator for
    whatever is random, and the probe that a start asks for by `needs_probe`."""

    weight: Tensor
    rank: int
    scale: float
    generator: torch.Generator
    probe: Probe | None = None

    @property
    def gradient(self) -> Tensor:
        assert self.probe is not None, "only starts that say needs_probe ask for it"
        return self.probe.gradient

    @property
    def jacobian(self) -> Tensor:
        assert self.probe is not None, "only starts that say needs_probe ask for it"
        return self.probe.jacobian


class Initializer(ABC):
    """A rule for the first factors of a layer. A start with B A != 0 is subtracted from the layer, so that the adapted
    network begins as the base. `rank_factor`: how many times the rank of what its factors span the adapter has."""

    needs_probe: ClassVar[bool] = False
    rank_factor: ClassVar[int] = 1

    @abstractmethod
    def factors(self, site: Site) -> tuple[Tensor, Tensor]:
        """B (m, r) and A (r, n) in float64."""


def top_singular(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, k), sigma (k,) and V^T (k, n) of the largest `rank` singular values."""
    U, sigma, V = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank], sigma[:rank], V[:rank]
