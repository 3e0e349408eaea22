"""Muon: momentum, orthogonalised."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pinn_lora.optimizers import Optimizer, TorchRun, every
from pinn_lora.ranges import AVERAGE, check_ranges


@dataclass(frozen=True)
class Muon(Optimizer):
    """torch's Muon on every factor or matrix, Adam with the same step size on biases; cosine decay.

    The step is U V^T of the momentum's singular vectors, by five Newton-Schulz iterations in bfloat16, scaled by
    0.2 max(a, b)^1/2 for a tensor a x b, to Adam's root mean square. torch 2.9 and newer. Source: Jordan et al., Muon, 2024;
    the scaling: Liu et al., Muon is scalable for LLM training, 2025 (arXiv 2502.16982), as torch's match_rms_adamw.
    """

    own = "O(a b min(a, b)) of each tensor a x b"

    momentum: float = 0.95
    nesterov: bool = True
    decay: bool = True

    def __post_init__(self):
        check_ranges(self, momentum=AVERAGE)

    def start(self, blocks, theta, *, step_size, max_steps):
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(f"muon needs torch 2.9 or newer, and this is {torch.__version__}")

        def make(pairs, dense):
            matrices, rest = ([t for t in every(pairs, dense) if (t.ndim == 2) == flat] for flat in (True, False))
            options = {"momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": 0.0}
            found = [torch.optim.Muon(matrices, lr=step_size, adjust_lr_fn="match_rms_adamw", **options)]
            return [*found, torch.optim.Adam(rest, lr=step_size)] if rest else found

        return TorchRun(blocks, theta, make, step_size=step_size, max_steps=max_steps, decay=self.decay)
