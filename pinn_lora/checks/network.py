"""Checks of the terms and the ansatz at a random smooth network, by jets and by torch.func."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pinn_lora.checks.differences import difference
from pinn_lora.checks.findings import Finding, judged
from pinn_lora.checks.runs import FACE, SEED, Run, points_inside
from pinn_lora.engines import FunctionalEngine, JetEngine
from pinn_lora.jets import Jet, closure
from pinn_lora.lora import Blocks
from pinn_lora.networks.mlp import MLP
from pinn_lora.places import ProblemError, place_of
from pinn_lora.problem import Problem
from pinn_lora.terms import PlacedTerm

SLOPE = 1e-6  # of the largest change along a direction of theta: differences of eighth order are far better
KINKS = 0.05  # of the points: so many may lie at a kink of a condition or a residual, where differences are none
AGREE = 1e-8  # jets and torch.func err by roundings alone, which a fourth derivative multiplies by some 1e4


def check_network(problem: Problem, runs: Sequence[Run]) -> Iterator[Finding]:
    """Every term at a random smooth network: finite, seen by the network, point by point, with the gradient of its values, and
    the same by jets as by torch.func."""
    network = MLP(
        problem.domain, fields=len(problem.fields), width=8, depth=2, periodic=problem.periodic, seed=SEED
    ).requires_grad_()
    blocks = Blocks(network)
    theta, jets, functional = (
        blocks.read(network),
        JetEngine(problem, network, blocks),
        FunctionalEngine(problem, network, blocks),
    )
    apart = 0.0
    for run in runs:
        try:
            r = jets.residuals(jets.bind(theta), jets.prepare(run.term, run.sets))
            other = functional.residuals(theta, functional.prepare(run.term, run.sets))
            says = _not_numbers(problem, run, r) or _of_others(problem, run, network) or _cut_off(run, jets, theta)
        except ProblemError as error:
            yield judged(run.term.name, True, str(error))
            return
        if says:
            yield judged(run.term.name, True, f"{run.term.place}: {says}")
            return
        found = torch.stack(r)
        apart = max(apart, float((found - torch.stack(other)).abs().max() / found.abs().max().clamp_min(1e-300)))
    says = f"jets and torch.func agree to {apart:.0e}"
    blame = f"{place_of(problem.ansatz)}: {says} only: something in the ansatz or in a residual is not differentiated"
    yield judged("derivatives", apart > AGREE, blame if apart > AGREE else says, apart)
    if type(problem).ansatz is not Problem.ansatz:
        yield from _ansatz(problem, network)


def _not_numbers(problem: Problem, run: Run, found: Sequence[Tensor]) -> str:
    """What is wrong with the type or the values of the components (N,); "" where nothing is."""
    kinds = [str(r.dtype).removeprefix("torch.") for r in found if r.dtype != torch.float64]
    if kinds:
        return f"it is {kinds[0]} where its points are float64; leave conversions out"
    bad = (~torch.stack(list(found)).isfinite()).any(0).nonzero()
    return f"it is not finite for a smooth u, at {problem.domain.spell(run.sets[0][int(bad[0])])}" if len(bad) else ""


def _of_others(problem: Problem, run: Run, network: MLP) -> str:
    """Every other point, with the network's output there, gives way to a copy of its neighbour, which must not notice."""
    sets, rows = run.sets, torch.arange(len(run.sets[0]))
    outputs = [network.jets(points, run.term.indices).detach() for points in sets]
    before = PlacedTerm.at(problem, run.term, sets).components(torch.cat(outputs, dim=1))
    neighbour = torch.where((rows ^ 1) < len(rows), rows ^ 1, rows)
    for kept in (rows % 2 == 0, rows % 2 == 1):
        copied = torch.where(kept, rows, neighbour)
        at = PlacedTerm.at(problem, run.term, [points[copied] for points in sets])
        after = at.components(torch.cat([jet[:, copied] for jet in outputs], dim=1))
        for r, s in zip(before, after, strict=True):
            if ((r - s)[kept].abs() > AGREE * r.abs().max()).any():
                return "a point's value depends on other points than its own, as a mean, a sum or a maximum does"
    return ""


def _cut_off(run: Run, jets: JetEngine, theta: Tensor) -> str:
    """Whether the gradient of each component along a direction of theta is that of its values, by differences; and whether
    each component of the residual has one."""
    chunk, generator = jets.prepare(run.term, run.sets), torch.Generator().manual_seed(SEED)
    direction = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    direction /= direction.norm()

    def along(steps: np.ndarray) -> np.ndarray:
        moved = (theta + float(s) * direction for s in steps[:, 0])
        return np.stack([torch.cat(jets.residuals(jets.bind(t), chunk)).numpy() for t in moved])

    true, uncertain = difference(along, np.zeros((1, 1)), (0,), [-1.0], [1.0])
    J = jets.jacobian(jets.bind(theta), chunk)[1]
    given = (J @ direction).numpy()
    off = np.abs(given - true.reshape(given.shape))
    size = np.maximum(np.abs(given), np.abs(true).reshape(given.shape)).max(axis=1, keepdims=True)
    wrong = off > SLOPE * size + 10.0 * uncertain.reshape(given.shape)
    if (wrong.mean(axis=1) > KINKS).any():
        worst = int(np.argmax(wrong.mean(axis=1)))
        says = f"its gradient is off by {off[worst].max() / size[worst, 0]:.1g} of its size from how its values change"
        return f"{says}: something is cut off, by .detach(), .item(), numpy or torch.no_grad()"
    blind = [k for k in range(len(J)) if not bool(J[k].any())] if run.condition is None else []
    which = f"component {blind[0] + 1} of it" if blind and len(J) > 1 else "it"
    return f"{which} does not depend on the unknown" if blind else ""


def _ansatz(problem: Problem, network: MLP) -> Iterator[Finding]:
    """The ansatz of a random network: the same from jets as from tensors, and periodic where the problem says so."""
    place, points = place_of(problem.ansatz), points_inside(problem.domain)
    with torch.no_grad():
        plain = torch.stack(problem.solution(points, network))
        carried = _carried(problem, network, points, ())
    apart = float((plain - carried).abs().max() / plain.abs().max().clamp_min(1e-300))
    says = f"tensors and jets agree to {apart:.0e}"
    yield judged("ansatz", apart > AGREE, says if apart <= AGREE else f"{place}: {says} only", apart)
    for name in problem.periodic:
        left, right = (
            problem.domain.sample_face(FACE, coordinate=name, side=side, seed=SEED) for side in ("lower", "upper")
        )
        number = problem.domain.number(name)
        second = any(index.count(number) > 1 for index in problem.needed(problem.residual))
        for index, what in (((), "the ansatz"), ((number,), f"the ansatz's derivative in {name}"))[: 1 + second]:
            ends = [_carried(problem, network, points, index) for points in (left, right)]
            gap, size = float((ends[0] - ends[1]).abs().max()), float(ends[0].abs().max())
            if gap > AGREE * max(size, float(plain.abs().max())):
                says = f"{place}: periodic names {name}, and {what} differs by {gap:.2g} between its two ends"
                yield judged("ansatz", True, says, gap)


def _carried(problem: Problem, network: MLP, points: Tensor, index: tuple[int, ...]) -> Tensor:
    """The derivative of the ansatz (fields, n) that `index` names, by jets."""
    indices = closure([index])
    jets = [Jet.coordinate(points, i, indices) for i in range(problem.domain.dimension)]
    found = problem.solution_jets(jets, network.jets(points, [index]), indices)
    return torch.stack([field.jet.data[indices.index(index)] for field in found])
