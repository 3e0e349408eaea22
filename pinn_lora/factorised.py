"""Random weight factorisation (Wang, Wang, Seidman & Perdikaris 2022): a linear layer whose rows carry a trained scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN, DEVIATION = 1.0, 0.1  # of s at the start, as published


class FactorisedLinear(nn.Linear):
    """y = x W^T + bias with W = diag(exp s) V; s (m,), V (m, n) and the bias are trained, `weight` is W.

    It begins as the layer `base`, with s ~ N(MEAN, DEVIATION^2) from `generator`.
    """

    factors = ("V", "s")

    def __init__(self, base: nn.Linear, generator: torch.Generator) -> None:
        nn.Module.__init__(self)  # not Linear's, which would make a weight of its own
        self.in_features, self.out_features = base.in_features, base.out_features
        s = MEAN + DEVIATION * torch.randn(base.out_features, generator=generator, dtype=torch.float64)
        weight = base.weight.detach()
        self.V = nn.Parameter((torch.exp(-s)[:, None] * weight.double()).to(weight))
        self.s = nn.Parameter(s.to(weight))
        self.bias = base.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.effective_weight(self.V, self.s)

    @staticmethod
    def effective_weight(V: Tensor, s: Tensor) -> Tensor:
        """diag(exp s) V."""
        return torch.exp(s)[:, None] * V

    def plain(self) -> nn.Linear:
        """The same layer with W itself trained."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta", dtype=self.V.dtype)
        layer.weight, layer.bias = nn.Parameter(self.weight.detach()), nn.Parameter(self.bias.detach().clone())
        return layer
