"""Checks of the terms and the ansatz at a random smooth network, by jets and by torch.func."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pinn_lora.checks.findings import Finding, judged
from pinn_lora.checks.runs import FACE, INSIDE, SEED, Run
from pinn_lora.engines import FunctionalEngine, JetEngine
from pinn_lora.jets import Jet, closure
from pinn_lora.lora import Blocks
from pinn_lora.networks.mlp import MLP
from pinn_lora.places import ProblemError, place_of
from pinn_lora.problem import Problem

AGREE = 1e-8  # jets and torch.func err by roundings alone, which a fourth derivative multiplies by some 1e4


def check_network(problem: Problem, runs: Sequence[Run]) -> Iterator[Finding]:
    """Every term at a random smooth network: finite, seen by the network, and the same by jets as by torch.func."""
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
            r, J = jets.jacobian(jets.bind(theta), jets.prepare(run.term, run.sets))
            other = torch.stack(functional.residuals(theta, functional.prepare(run.term, run.sets)))
        except ProblemError as error:
            yield judged(run.term.name, True, str(error))
            return
        bad = (~r.isfinite()).any(0).nonzero()
        if len(bad):
            where = problem.domain.spell(run.sets[0][int(bad[0])])
            yield judged(run.term.name, True, f"{run.term.place}: it is not finite for a smooth u, at {where}")
            return
        blind = [k for k in range(len(J)) if not bool(J[k].any())] if run.condition is None else []
        if blind:
            which = f"component {blind[0] + 1} of it" if len(J) > 1 else "it"
            yield judged("residual", True, f"{run.term.place}: {which} does not depend on the unknown")
            return
        apart = max(apart, float((r - other).abs().max() / r.abs().max().clamp_min(1e-300)))
    says = f"jets and torch.func agree to {apart:.0e}"
    blame = f"{place_of(problem.ansatz)}: {says} only: something in the ansatz or in a residual is not differentiated"
    yield judged("derivatives", apart > AGREE, blame if apart > AGREE else says, apart)
    if type(problem).ansatz is not Problem.ansatz:
        yield from _ansatz(problem, network)


def _ansatz(problem: Problem, network: MLP) -> Iterator[Finding]:
    """The ansatz of a random network: the same from jets as from tensors, and periodic where the problem says so."""
    place, points = place_of(problem.ansatz), problem.domain.sample(INSIDE, seed=SEED)
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
