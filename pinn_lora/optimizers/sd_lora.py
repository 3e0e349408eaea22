"""SD-LoRA: past directions stay, their magnitudes and the newest pair are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from pinn_lora.lora import Blocks, PairBlock
from pinn_lora.optimizers import Descent, Optimizer, require_factors
from pinn_lora.ranges import COUNT_OR_NONE, check_ranges


@dataclass(frozen=True)
class SDLoRA(Optimizer):
    """Adam with cosine decay on W = W0 + sum_k a_k B_k A_k + B A with |B_k| = |A_k| = 1 frozen, all a_k and (B, A) trained.

    A layer's factors are [a_1 B_1, ..., B] and [A_1; ...; A], each part of `rank` (0: there is no past), the newest last: a
    chain over members of a family, see `pinn_lora.sd_lora`. dL/da_k = <g_{a_k B_k}, B_k>. Source: Wu et al., SD-LoRA, ICLR
    2025 (arXiv 2501.13198); there the newest pair has a magnitude of its own, too.
    """

    dense = "Adam"
    needs_factors = True

    rank: int = 0
    decay: bool = True

    def __post_init__(self):
        check_ranges(self, rank=COUNT_OR_NONE)

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("sd_lora", blocks)
        for block in blocks.pairs:
            r = len(block.split(theta[block.slice])[1])
            if self.rank and r % self.rank:
                raise ValueError(
                    f"sd_lora: a layer's factors have rank {r}, which is no multiple of the pairs' rank {self.rank}"
                )
        return SDLoRARun(self, blocks, theta.detach(), step_size, max_steps)


class SDLoRARun(Descent):
    """Of every layer the magnitudes a (k,), the frozen directions B_k and the newest pair; of all else the tensors."""

    def __init__(self, settings: SDLoRA, blocks: Blocks, theta: Tensor, step_size: float, max_steps: int) -> None:
        super().__init__(step_size, max_steps, settings.decay)
        self.rank = settings.rank
        self.parts: list[list[Parameter]] = []
        self.directions: dict[str, Tensor] = {}
        for block in blocks.blocks:
            tensors = block.split(theta[block.slice])
            if isinstance(block, PairBlock):
                past, newest = self._apart(*tensors)
                sizes = past.square().sum((0, 2)).sqrt()
                self.directions[block.name] = (
                    past / sizes.clamp_min(1e-300)[:, None]
                )  # a pair that never moved stays zero
                tensors = [sizes, *newest]
            self.parts.append([Parameter(t.clone()) for t in tensors])
        self.torch = torch.optim.Adam([p for parts in self.parts for p in parts], lr=step_size)

    def state(self):
        return super().state() | {"parts": self.parts, "torch": self.torch.state_dict()}

    def restore(self, state, objective, theta):
        super().restore(state, objective, theta)
        for parts, saved in zip(self.parts, state["parts"], strict=True):
            for parameter, value in zip(parts, saved, strict=True):
                parameter.data.copy_(value)
        self.torch.load_state_dict(state["torch"])

    def _apart(self, B: Tensor, A: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The past's part of B (m, k, r) and the newest pair."""
        r = self.rank or len(A)
        return B[:, :-r].unflatten(1, (-1, r)), [B[:, -r:], A[-r:]]

    def direction(self, objective, theta):
        return objective.gradient(theta)

    def update(self, objective, theta, direction):
        for block, parts in zip(objective.blocks.blocks, self.parts, strict=True):
            gradients = block.split(direction[block.slice])
            if isinstance(block, PairBlock):
                past, newest = self._apart(*gradients)
                gradients = [(past * self.directions[block.name]).sum((0, 2)), *newest]
            for parameter, gradient in zip(parts, gradients, strict=True):
                parameter.grad = gradient.clone()
        self.torch.param_groups[0]["lr"] = self.h
        self.torch.step()
        new = theta.clone()
        for block, parts in zip(objective.blocks.blocks, self.parts, strict=True):
            held, now = block.split(new[block.slice]), [p.detach() for p in parts]
            if isinstance(block, PairBlock):
                sizes, B, A = now
                held[0].copy_(torch.cat([(self.directions[block.name] * sizes[:, None]).flatten(1), B], 1))
                held[1][-len(A) :] = A
            else:
                held[0].copy_(now[0])
        return new
