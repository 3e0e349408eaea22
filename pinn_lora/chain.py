"""Adapters one after another: restarts that lift the rank (RAC-LoRA), and a chain over the members of a family (SD-LoRA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pinn_lora.loop import Budget, train
from pinn_lora.lora import LoRALinear, adapt, merge
from pinn_lora.optimizers.adam import Adam
from pinn_lora.optimizers.sd_lora import SDLoRA
from pinn_lora.problem import Problem
from pinn_lora.ranges import COUNT, must_be
from pinn_lora.scalars import checked_seed, integers, term_weights
from pinn_lora.solution import Solution, Status
from pinn_lora.training import check_given, continued, finetune


def rac_lora(
    base: Solution, problem: Problem, *, rounds: int = 8, seed: int = 0, step_size: float = 1e-2, **options: Any
) -> Solution:
    """Adapts in rounds: one factor, chosen at random, stays at a random value, the other is trained from zero by Adam on its
    preconditioned gradient (the lift one_factor), and the product is merged; so the change has rank up to `rounds` times the
    adapter's. `options` go to `finetune` (rank, max_steps of a round, points ...). The result's network is merged; its history
    is that of all rounds. Source: Malinovsky et al., RAC-LoRA, 2024 (arXiv 2410.08305), reconstructed: that the side is
    drawn anew in each round, and Adam on the preconditioned gradient, are ours. Raises ValueError for less than one round
    and for an option that every round chooses.
    """
    must_be(COUNT, rounds=rounds)
    seed = checked_seed(seed)
    for name in ("method", "initializer", "start"):
        if name in options:
            raise ValueError(
                f"{name}={options[name]!r} is given, and every round of rac_lora has its own; leave {name} out"
            )
    generator, now = torch.Generator().manual_seed(seed), base
    for k in range(rounds):
        side = "BA"[int(torch.randint(2, (), generator=generator))]
        method = Adam(lift={"name": "one_factor", "side": side})
        start = "zero_b" if side == "B" else "zero_a"
        found = finetune(now, problem, method=method, initializer=start, seed=seed + k, step_size=step_size, **options)
        now = continued(now, found) if k else found
        if now.status is Status.DIVERGED:
            break
    return replace(now, network=merge(now.network), base=base)


def sd_lora(
    base: Solution,
    problems: Sequence[Problem],
    *,
    rank: int = 4,
    targets: str | Sequence[str] = "hidden",
    step_size: float = 1e-2,
    max_steps: int = 5000,
    points: int = 3000,
    resample_every: int | None = 500,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Solution]:
    """One solution for each problem, in their order: every one begins as the one before it, freezes the directions of all
    pairs so far, and trains their magnitudes and a new pair of the given rank. So the k-th is plain LoRA of rank k times
    `rank` on the same base, and is saved as that. A link that diverged is the last of those returned: the next would begin from
    it. Source: Wu et al., SD-LoRA, ICLR 2025 (arXiv 2501.13198); `optimizers/sd_lora.py` says where it differs.
    """
    if not isinstance(problems, Sequence) or not problems:
        told = f"problems={problems!r:.60}" if problems else "no problems"
        raise ValueError(f"sd_lora was given {told}; give the members of the family in the order to follow, as a list")
    for problem in problems:
        check_given(problem, base=base)
    rank, seed = integers(rank=rank)[0], checked_seed(seed)
    must_be(COUNT, rank=rank)
    found: list[Solution] = []
    network = None
    for k, problem in enumerate(problems):
        network = _longer(base, network, rank=rank, targets=targets, seed=seed + k)
        settings = {"method": f"sd-lora, pair {k + 1}", "rank": rank * (k + 1), "seed": seed, "points": points}
        settings["weights"] = base.weights_for(problem) if weights is None else term_weights(weights)
        solution = train(
            Solution(problem, network, base, (), Status.COMPLETED, settings),
            SDLoRA(rank=rank),
            step_size=step_size,
            budget=Budget(max_steps, None, resample_every),
            points=points,
            weights=settings["weights"],
            seed=seed + k,
            compile=False,
            progress=progress,
        )
        found.append(solution)
        if solution.status is Status.DIVERGED:
            break
        network = solution.network
    return found


def _longer(base: Solution, past: nn.Module | None, *, rank: int, targets: str | Sequence[str], seed: int) -> nn.Module:
    """The network with one more pair a layer, the standard start, after the normalised pairs of the one before."""
    fresh = adapt(merge(base.network), rank=rank, targets=targets, seed=seed)
    if past is None:
        return fresh
    for name, layer in list(fresh.named_modules()):
        if isinstance(layer, LoRALinear):
            before = past.get_submodule(name)
            assert isinstance(before, LoRALinear)
            with torch.no_grad():
                pairs = zip(before.B.split(rank, 1), before.A.split(rank, 0), strict=True)
                sizes = [(B, A, A.norm().clamp_min(1e-300)) for B, A in pairs]
                B = torch.cat([*(B * size for B, _, size in sizes), layer.B], 1)
                A = torch.cat([*(A / size for _, A, size in sizes), layer.A])
            plain = nn.Linear(layer.in_features, layer.out_features, device="meta")  # draws no numbers
            plain.weight, plain.bias = nn.Parameter(layer.weight), nn.Parameter(layer.bias)
            longer = LoRALinear(plain, B, A, scale=layer.scale)
            longer.B0 = longer.A0 = None  # the past is kept, not subtracted
            fresh.set_submodule(name, longer)
    return fresh
