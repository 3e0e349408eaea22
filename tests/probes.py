"""Probes for starts that need the loss's gradient, where a test has no loss."""

import torch
from torch import nn

from pinn_lora.initializers import Probe


def probes_of(network: nn.Module) -> dict[str, Probe]:
    """A random Jacobian of every linear layer, and the gradient of random residuals."""
    generator, found = torch.Generator().manual_seed(6), {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear):
            J = torch.randn(20, *layer.weight.shape, generator=generator, dtype=torch.float64)
            R = torch.randn(20, generator=generator, dtype=torch.float64)
            found[name] = Probe(2.0 * torch.einsum("i,ikj->kj", R, J), J)
    return found
