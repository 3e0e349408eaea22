"""SD-LoRA: past directions stay, their magnitudes and the newest pair are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from pinn_lora.flow import cosine
from pinn_lora.integrators import Step
from pinn_lora.lora import PairBlock
from pinn_lora.optimizers import Optimizer, require_factors


@dataclass(frozen=True)
class SDLoRA(Optimizer):
    """Adam with cosine decay on W = W0 + sum_k a_k B_k A_k + B A with |B_k| = |A_k| = 1 frozen, all a_k and (B, A) trained.

    A layer's factors are [a_1 B_1, ..., B] and [A_1; ...; A], each part of `rank` (0: there is no past), the newest last: a
    chain over members of a family, see `pinn_lora.sd_lora`. dL/da_k = <g_{a_k B_k}, B_k>. Source: Wu et al., SD-LoRA, ICLR
    2025 (there the newest pair has a magnitude of its own, too).
    """

    needs_factors = True

    rank: int = 0
    decay: bool = True

    def start(self, blocks, theta, *, step_size, max_steps):
        require_factors("sd_lora", blocks)
        for block in blocks.pairs:
            r = len(block.split(theta[block.slice])[1])
            if self.rank and r % self.rank:
                raise ValueError(
                    f"sd_lora: a layer's factors have rank {r}, which is no multiple of the pairs' rank {self.rank}"
                )
        return SDLoRARun(self, blocks, theta.detach(), step_size, max_steps)


class SDLoRARun:
    """Of every layer the magnitudes a (k,), the frozen directions B_k and the newest pair; of all else the tensors."""

    def __init__(self, settings, blocks, theta, step_size, max_steps):
        self.settings, self.blocks, self.h = settings, blocks, step_size
        self.first, self.max_steps, self.taken = step_size, max_steps, 0
        self.parts: list[tuple[Parameter, ...]] = []
        self.directions: list[Tensor] = []
        for block in blocks.blocks:
            tensors = block.split(theta[block.slice])
            if isinstance(block, PairBlock):
                r = settings.rank or len(tensors[1])
                past = tensors[0][:, :-r].unflatten(1, (-1, r))  # (m, k, r)
                sizes = past.square().sum((0, 2)).sqrt()
                self.directions.append(past / sizes[:, None])
                tensors = [sizes, tensors[0][:, -r:], tensors[1][-r:]]
            self.parts.append(tuple(Parameter(t.clone()) for t in tensors))
        self.torch = torch.optim.Adam([p for parts in self.parts for p in parts], lr=step_size)

    def step(self, objective, theta):
        value, g = objective.gradient(theta)
        if not g.isfinite().all():
            return Step(torch.full_like(theta, torch.nan), True, self.h, value)
        new, directions = theta.clone(), iter(self.directions)
        for block, parts in zip(self.blocks.blocks, self.parts, strict=True):
            gradients = block.split(g[block.slice])
            if isinstance(block, PairBlock):
                r = self.settings.rank or len(gradients[1])
                past = gradients[0][:, :-r].unflatten(1, (-1, r))
                slopes = (past * next(directions)).sum((0, 2))
                gradients = [slopes, gradients[0][:, -r:], gradients[1][-r:]]
            for parameter, gradient in zip(parts, gradients, strict=True):
                parameter.grad = gradient.clone()
        self.torch.step()
        directions = iter(self.directions)
        for block, parts in zip(self.blocks.blocks, self.parts, strict=True):
            held, now = block.split(new[block.slice]), [p.detach() for p in parts]
            if isinstance(block, PairBlock):
                held[0].copy_(torch.cat([(next(directions) * now[0][:, None]).flatten(1), now[1]], 1))
                held[1][-len(now[2]) :] = now[2]
            else:
                held[0].copy_(now[0])
        self.taken += 1
        if self.settings.decay:
            self.h = self.torch.param_groups[0]["lr"] = cosine(self.first, self.taken, self.max_steps)
        return Step(new, True, self.h, value)
