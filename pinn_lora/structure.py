"""Where the rank goes: which singular directions are worth their place (SubLoRA), which layers get an adapter (DiffoRA)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pinn_lora.loop import BLOW_UP
from pinn_lora.lora import Blocks, LoRALinear, adapt, merge, singular_factors, unfactored
from pinn_lora.objective import Objective
from pinn_lora.points import first_points
from pinn_lora.problem import Problem
from pinn_lora.ranges import COUNT, POSITIVE, must_be
from pinn_lora.scalars import checked_seed, integers, reals, term_weights
from pinn_lora.solution import Solution
from pinn_lora.training import check_given


def select_ranks(
    solution: Solution, budget: int, *, points: int = 2000, weights: Mapping[str, float] | None = None, seed: int = 0
) -> dict[str, int]:
    """How many directions each layer keeps of an adapted solution under a total budget: give them to `finetune(rank=...)`.

    With s (B A - B0 A0) = U diag(sigma) V^T in every layer, dropping a set R of all singular values changes the loss by
    -g_R.sigma_R + sigma_R.H_RR sigma_R / 2, g and H the loss's gradient and Hessian in sigma (H by central differences of g).
    Negative off-diagonal terms sigma_i H_ij sigma_j are left out, which makes the gain of what is kept submodular, and
    it is chosen greedily. Layers that keep nothing are left out. Source: Gao & Tan, SubLoRA, 2025 (arXiv 2507.01841),
    reconstructed. ValueError for a solution without adapters, or whose adapters add nothing or too much to be finite, and for a
    budget that is not between 1 and the number of directions there are.
    """
    if not isinstance(solution, Solution):
        raise ValueError(f"solution is of type {type(solution).__name__}; give a Solution, as finetune returns it")
    (budget, points), seed = integers(budget=budget, points=points), checked_seed(seed)
    must_be(COUNT, points=points)
    layers = {name: m for name, m in solution.network.named_modules() if isinstance(m, LoRALinear)}
    if not layers:
        raise ValueError("this solution has no adapters to choose ranks for; fine-tune with a factor method first")
    if not all(layer.effective_weight(layer.B, layer.A).isfinite().all() for layer in layers.values()):
        raise ValueError("this solution's weights are not finite: it diverged; fine-tune with a smaller step_size")
    directions = {name: singular_factors(layer) for name, layer in layers.items()}
    owners = [name for name, (_, sigma, _) in directions.items() for _ in sigma]
    if budget is None or not 1 <= budget <= len(owners):
        raise ValueError(f"the budget is {budget}; it must be between 1 and {len(owners)}, the directions there are")
    if not any(sigma.any() for _, sigma, _ in directions.values()):
        raise ValueError(
            "this solution's adapters add nothing to the base: no direction is worth a place; fine-tune it first"
        )
    chosen = first_points(solution.problem, points, seed=seed)
    weights = solution.weights_for(solution.problem) if weights is None else term_weights(weights)
    sigma, g, H = _expansion(solution, directions, chosen, weights)
    if not (g.isfinite().all() and H.isfinite().all()):
        raise ValueError("the loss near this solution is not finite: it diverged; fine-tune with a smaller step_size")
    kept = greedy(sigma, g, H, budget)
    counts = {name: sum(owners[k] == name for k in kept) for name in layers}
    return {name: count for name, count in counts.items() if count}


def _expansion(solution: Solution, directions, points, weights) -> tuple[Tensor, Tensor, Tensor]:
    """sigma (K,) of all layers, and gradient (K,) and Hessian (K, K) of the loss in them."""
    plain = unfactored(solution.network)
    blocks = Blocks(plain)
    objective = Objective(solution.problem, plain, blocks, points, weights)
    theta = blocks.read(plain)
    places = {block.name.removesuffix(".weight"): block for block in blocks.blocks}
    sigma = torch.cat([s for _, s, _ in directions.values()])

    def gradient(change: Tensor) -> Tensor:
        moved, start, found = theta.clone(), 0, []
        for name, (U, s, V) in directions.items():
            part = (U * change[start : start + len(s)]) @ V
            moved[places[name].slice] += part.reshape(-1)
            start += len(s)
        G = objective.gradient(moved)[1]
        for name, (U, _, V) in directions.items():
            D = G[places[name].slice].view(len(U), V.shape[1])
            found.append(((U.T @ D) * V).sum(1))
        return torch.cat(found)

    h = 1e-4 * float(sigma.max())
    columns = [(gradient(h * e) - gradient(-h * e)) / (2.0 * h) for e in sigma.new_ones(len(sigma)).diag()]
    H = torch.stack(columns, 1)
    return sigma, gradient(torch.zeros_like(sigma)), 0.5 * (H + H.T)


def greedy(sigma: Tensor, g: Tensor, H: Tensor, budget: int) -> list[int]:
    """The places kept: from none, always the one whose return lowers the modelled loss most."""
    C = sigma[:, None] * H * sigma
    C = torch.where((C < 0) & ~torch.eye(len(C), dtype=torch.bool, device=C.device), 0.0, C)
    gain = -g * sigma + 0.5 * C.diagonal() + (C.sum(1) - C.diagonal())  # of each, while all others are dropped
    kept: list[int] = []
    for _ in range(budget):
        gain[kept] = -torch.inf
        best = int(gain.argmax())
        kept.append(best)
        gain = gain - C[best]  # it is no longer among the dropped
    return kept


def select_layers(
    base: Solution,
    problem: Problem,
    keep: int,
    *,
    rank: int = 4,
    steps: int = 300,
    step_size: float = 1e-2,
    points: int = 2000,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[str]:
    """The `keep` linear layers that are worth an adapter: give them to `finetune(targets=...)`.

    Every layer has an adapter times a gate in (0, 1), sigmoid of a number that is trained with the factors by Adam; the layers
    with the largest gate times the size of their change are kept. Source: Jiang, Wang & Yuan, DiffoRA, 2025 (arXiv
    2502.08905), reconstructed: a relaxed gate per layer, then the top K; ranking by the gated change is ours. ValueError for
    what is no such number of layers or steps, and where no layer changed or the training diverged.
    """
    check_given(problem, base=base)
    keep, rank, steps, points = integers(keep=keep, rank=rank, steps=steps, points=points)
    step_size, seed = reals(step_size=step_size)[0], checked_seed(seed)
    must_be(COUNT, rank=rank, steps=steps, points=points)
    must_be(POSITIVE, step_size=step_size)
    adapted = adapt(merge(base.network), rank=1, targets="all")
    shapes = {name: m.weight.shape for name, m in adapted.named_modules() if isinstance(m, LoRALinear)}
    if keep is None or not 1 <= keep <= len(shapes):
        raise ValueError(f"keep is {keep}; it must be between 1 and {len(shapes)}, the linear layers there are")
    ranks = {name: min(rank, *shape) for name, shape in shapes.items()}
    network = adapt(merge(base.network), rank=ranks, targets="all", seed=seed)
    blocks = Blocks(network)
    weights = base.weights_for(problem) if weights is None else term_weights(weights)
    objective = Objective(problem, network, blocks, first_points(problem, points, seed=seed), weights)
    found = _trained(objective, steps, step_size)
    sizes = {block.name: float(torch.linalg.matrix_norm(_product(block, found))) for block in blocks.pairs}
    if not objective.value(found) <= BLOW_UP * objective.value(blocks.read(network)):
        raise ValueError(f"the training of the gates diverged with the step size {step_size:g}; take a smaller one")
    if not any(sizes.values()):
        raise ValueError("no layer changed, so none is worth more than another: the loss of the base has no gradient")
    return sorted(sizes, key=sizes.__getitem__, reverse=True)[:keep]


def _trained(objective: Objective, steps: int, step_size: float) -> Tensor:
    """theta with every B times its gate, both trained by Adam from gates of a half."""
    blocks = objective.blocks
    theta = blocks.read(objective.network).requires_grad_()
    gates = torch.zeros(len(blocks.pairs)).to(theta).requires_grad_()
    optimizer = torch.optim.Adam([theta, gates], lr=step_size)
    for _ in range(steps):
        _, g = objective.gradient(_gated(blocks, theta.detach(), gates.detach().sigmoid()))
        optimizer.zero_grad()
        _gated(blocks, theta, gates.sigmoid()).backward(g)
        optimizer.step()
    return _gated(blocks, theta.detach(), gates.detach().sigmoid())


def _gated(blocks: Blocks, theta: Tensor, gates: Tensor) -> Tensor:
    """theta with every B times its gate."""
    parts = []
    for block, gate in zip(blocks.pairs, gates, strict=True):
        B, A = block.split(theta[block.slice])
        parts += [(gate * B).reshape(-1), A.reshape(-1)]
    return torch.cat(parts)


def _product(block, theta: Tensor) -> Tensor:
    B, A = block.split(theta[block.slice])
    return block.scale * B @ A
