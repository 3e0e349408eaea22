"""Objectives of equal shape at one theta each, in one batched program: a leading dimension K goes through the passes, the
layers' gradients and the Jacobians. Their problems may differ in coefficients, their points, base and frozen weights in
everything but number and shape.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from pinn_lora import lower
from pinn_lora.compiling import KERNELS, Function, run
from pinn_lora.engines import JetChunk, JetEngine
from pinn_lora.identity import identified
from pinn_lora.layer_jacobians import fill_alpha, fill_layer
from pinn_lora.lora import DenseBlock
from pinn_lora.objective import Objective
from pinn_lora.passes import Bound, CompiledPasses, Passes
from pinn_lora.program import Layer, Record, units_first
from pinn_lora.terms import PlacedTerm, output_adjoint


@dataclass(frozen=True)
class OverNetworks:
    """A function of one network's tensors, as one of K networks'. Two of one function are equal: kernels are found again."""

    function: Function

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        return torch.func.vmap(self.function)(*tensors)


@dataclass(frozen=True)
class BatchedPasses(CompiledPasses):
    """The passes of K networks on K sets of features (K, S, N, n), compiled or not."""

    compile: bool = False

    def _run(self, function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
        batched = OverNetworks(function)
        return run(batched, tensors) if self.compile else batched(*tensors)


@lru_cache(maxsize=KERNELS)
def batched_passes(passes: Passes) -> BatchedPasses:
    """One object for equal passes: a method of it is one function, whose kernels are found again. It holds no network."""
    parts: dict[str, Any] = {f.name: getattr(passes, f.name) for f in fields(passes)}
    return BatchedPasses(**parts, compile=isinstance(passes, CompiledPasses))


def batch_key(objective: Objective) -> Hashable | None:
    """Equal for objectives that can be batched; None for one that cannot: with other passes than jets', a weight that is
    factorised, or a problem that cannot be told from another."""
    engine = objective.running
    if not isinstance(engine, JetEngine) or any(plan.s is not None for plan in engine.plan):
        return None
    if identified(objective.problem) is None:
        return None
    chunks = [(c.passes, c.features.shape, c.count, c.term.name, scale) for c, scale in objective.chunks]
    theta = engine.blocks.read(engine.network)
    return type(objective.problem), objective.rows, objective.size, theta.dtype, theta.device, tuple(chunks)


@dataclass(frozen=True)
class Group:
    """The members of a batch whose term is run at once, at the points of all, because it is the same function."""

    members: list[int]
    at: PlacedTerm

    @property
    def sets(self) -> int:
        return len(self.at.jets)

    def components(self, outputs: Tensor) -> Tensor:
        """Every component (C, members, N) from the outputs' jets (K, S, sets N, fields) of all."""
        mine = outputs if len(self.members) == len(outputs) else outputs[self.members]
        mine = mine.unflatten(2, (self.sets, -1)).permute(1, 2, 0, 3, 4)  # set by set, as the term wants them
        return torch.stack([r.view(len(self.members), -1) for r in self.at.components(mine.flatten(1, 3))])


@dataclass(frozen=True)
class BatchChunk:
    """A term at the points of all members."""

    passes: BatchedPasses
    features: Tensor
    groups: list[Group]
    order: Tensor | None
    count: int
    scale: float

    @classmethod
    def of(cls, members: Sequence[Objective], number: int) -> BatchChunk:
        chunks: list[JetChunk] = [member.chunks[number][0] for member in members]
        first, scale = members[0].chunks[number]
        groups = _groups(members, chunks)
        places = [i for group in groups for i in group.members]
        order = None if places == sorted(places) else torch.tensor(places).argsort().to(first.features.device)
        return cls(
            batched_passes(first.passes), _stacked([c.features for c in chunks]), groups, order, first.count, scale
        )

    def components(self, outputs: Tensor) -> list[Tensor]:
        """Every component (K, N) from the outputs' jets (K, S, sets N, fields)."""
        found = torch.cat([group.components(outputs) for group in self.groups], 1)
        return list(found if self.order is None else found[:, self.order])

    def forward(self, bound: Bound) -> tuple[Tensor, Record]:
        """The outputs' jets at the real points, and the record."""
        with torch.no_grad():
            outputs, record = self.passes.forward(bound, self.features)
        return outputs[:, :, : self.count], record

    def differentiable(self, bound: Bound) -> tuple[Tensor, Record, list[Tensor]]:
        """The same, and every component (K, N) as a function of the outputs."""
        outputs, record = self.forward(bound)
        outputs = outputs.detach().requires_grad_()
        with torch.enable_grad():
            return outputs, record, self.components(outputs)

    def seed(
        self, found: Sequence[Tensor], outputs: Tensor, weights: Sequence[Tensor], *, keep: bool = False
    ) -> Tensor:
        """The adjoint of the outputs, zero at the copies that the features end in."""
        back = output_adjoint(found, outputs, weights, keep=keep)
        return torch.nn.functional.pad(back, (0, 0, 0, self.features.shape[2] - self.count))


def _groups(members: Sequence[Objective], chunks: Sequence[JetChunk]) -> list[Group]:
    """Members with the same problem together; each by itself where a condition's data stand for its own points."""
    together: list[list[int]] = []
    known = [identified(member.problem) for member in members]
    for i, member in enumerate(members):
        same = [g for g in together if known[g[0]] == known[i] and not _has_data(member, chunks[i])]
        if same:
            same[0].append(i)
        else:
            together.append([i])
    found = []
    for numbers in together:
        if len(numbers) == 1:
            found.append(Group(numbers, chunks[numbers[0]].at))
        else:
            first = chunks[numbers[0]].at
            points = [torch.cat(sets) for sets in zip(*(chunks[i].at.points for i in numbers), strict=True)]
            found.append(Group(numbers, PlacedTerm.at(first.problem, first.term, points)))
    return found


def _has_data(member: Objective, chunk: JetChunk) -> bool:
    conditions = {name: condition for name, _, condition in member.problem.terms()}
    condition = conditions[chunk.term.name]
    return condition is not None and condition.points is not None


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Jets (S, N, n) of all members, in memory as each of them."""
    if units_first(tensors[0].dtype):
        return torch.stack([t.permute(2, 0, 1) for t in tensors]).permute(0, 2, 3, 1)
    return torch.stack(list(tensors))


class Batch:
    """K = `count` objectives with one `batch_key`: a tuple of what each gives at its row of Theta (K, P), by the same names."""

    def __init__(self, members: Sequence[Objective]) -> None:
        engines: list[JetEngine] = [cast(JetEngine, member.running) for member in members]
        first, self.count = engines[0], len(members)
        self.size, self.plan, self.alpha, self.order = first.blocks.size, first.plan, first.alpha, first.order
        self.chunks = [BatchChunk.of(members, i) for i in range(len(members[0].chunks))]
        # what is frozen: the layers at theta = 0, where the factors add nothing
        still = [engine.bind(torch.zeros_like(engine.blocks.read(engine.network))) for engine in engines]
        self.frozen = [
            Layer(*(torch.stack(t) for t in zip(*layers, strict=True)))
            for layers in zip(*(b.layers for b in still), strict=True)
        ]
        self.frozen_alpha = None if still[0].alpha is None else torch.stack([b.alpha for b in still])  # type: ignore[misc]

    def bind(self, Theta: Tensor) -> Bound:
        """The layers of all members with their theta in them."""
        layers, factors = [], []
        for plan, (weight, bias) in zip(self.plan, self.frozen, strict=True):
            pair: tuple[Tensor, ...] = ()
            if plan.pair is not None:
                B, A = pair = tuple(plan.pair.split(Theta[:, plan.pair.slice]))
                weight = torch.baddbmm(weight, B, A, alpha=plan.pair.scale)
            weight, bias = _put(plan.weight, Theta, weight), _put(plan.bias, Theta, bias)
            layers.append(Layer(weight, bias))
            factors.append(pair)
        alpha = None if self.frozen_alpha is None else _put(self.alpha, Theta, self.frozen_alpha)
        return Bound(layers, alpha, factors)

    def residuals(self, Theta: Tensor) -> tuple[Tensor]:
        """R (K, N)."""
        bound, found = self.bind(Theta), []
        for chunk in self.chunks:
            with torch.no_grad():
                found += [math.sqrt(chunk.scale) * r for r in chunk.components(chunk.forward(bound)[0])]
        return (torch.cat(found, 1),)

    def value(self, Theta: Tensor) -> tuple[Tensor]:
        """f (K,)."""
        return (self.residuals(Theta)[0].double().square().sum(1),)

    def gradient(self, Theta: Tensor) -> tuple[Tensor, Tensor]:
        """f (K,) and g (K, P)."""
        bound, g, parts = self.bind(Theta), torch.zeros_like(Theta), []
        for chunk in self.chunks:
            outputs, record, found = chunk.differentiable(bound)
            values = [r.detach() for r in found]
            parts.append(chunk.scale * torch.stack(values).square().sum((0, 2)))
            seed = chunk.seed(found, outputs, [2.0 * chunk.scale * r for r in values])
            self._add_gradients(chunk, bound, record, seed, g)
        return torch.stack(parts).sum(0), g

    def pullback(self, Theta: Tensor, U: Tensor) -> tuple[Tensor]:
        """J^T u (K, P) in float64, for U (K, N)."""
        bound, out, at = self.bind(Theta), torch.zeros_like(Theta), 0
        for chunk in self.chunks:
            outputs, record, found = chunk.differentiable(bound)
            weights = []
            for r in found:
                weights.append(math.sqrt(chunk.scale) * U[:, at : at + r.shape[1]].to(outputs))
                at += r.shape[1]
            self._add_gradients(chunk, bound, record, chunk.seed(found, outputs, weights), out)
        return (out.double(),)

    def _add_gradients(self, chunk: BatchChunk, bound: Bound, record: Record, seed: Tensor, out: Tensor) -> None:
        with torch.no_grad():
            gradients = chunk.passes.gradients(bound, record, seed)
            out += torch.cat([gradients[i].flatten(1) for i in self.order], 1)

    def normal(self, Theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """R (K, N), g (K, P) and H = 2 J^T J (K, P, P), in float64, on and below the diagonal."""
        bound, K, P, found = self.bind(Theta), len(Theta), self.size, []
        g = torch.zeros(K, P, dtype=torch.float64, device=Theta.device)
        H = torch.zeros(K, P, P, dtype=torch.float64, device=Theta.device)
        for chunk in self.chunks:
            for r, J in self._components(chunk, bound):
                found.append(math.sqrt(chunk.scale) * r)
                g += 2.0 * chunk.scale * (J @ r[:, :, None])[:, :, 0]
                _add_products(H, J, 2.0 * chunk.scale)
        return torch.cat(found, 1), g, H

    def normal_and_jacobian(self, Theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """R, g and H as `normal` gives them, and J as `jacobian` does."""
        R, J = self.jacobian(Theta)
        H = J.new_zeros(len(J), self.size, self.size)
        _add_products(H, J.mT, 2.0)
        return R, 2.0 * (J.mT @ R[:, :, None])[:, :, 0], H, J

    def jacobian(self, Theta: Tensor) -> tuple[Tensor, Tensor]:
        """R (K, N) and J (K, N, P), in float64; in memory (K, P, N)."""
        bound, found, parts = self.bind(Theta), [], []
        for chunk in self.chunks:
            for r, J in self._components(chunk, bound):
                found.append(math.sqrt(chunk.scale) * r)
                parts.append(math.sqrt(chunk.scale) * J)
        return torch.cat(found, 1), torch.cat(parts, 2).mT

    def _components(self, chunk: BatchChunk, bound: Bound) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each component r (K, n) and dr/dtheta (K, P, n), in float64."""
        outputs, record, found = chunk.differentiable(bound)
        passes, real = chunk.passes, slice(0, chunk.count)
        for r in found:
            seed = chunk.seed([r], outputs, [torch.ones_like(r)], keep=True)
            with torch.no_grad():
                J = outputs.new_empty(len(outputs), self.size, r.shape[1])
                adjoints = passes.adjoints(bound, record, seed)
                for i in passes.trained:
                    D, H = adjoints.layers[i], record.values[passes.inputs[i]]
                    fill_layer(self.plan[i], bound.factors[i], D[:, :, real], H[:, :, real], J)
                if self.alpha is not None:
                    rows = [adjoints.connections[k][:, real] for k in sorted(adjoints.connections)]
                    fill_alpha(self.alpha, rows, J)
            yield r.detach().double(), J.double()


def _put(block: DenseBlock | None, Theta: Tensor, frozen: Tensor) -> Tensor:
    return frozen if block is None else block.split(Theta[:, block.slice])[0]


def _add_products(H: Tensor, J: Tensor, weight: float) -> None:
    """H += weight J J^T on and below the diagonal, for J (K, P, N)."""
    if J.device.type == "cpu":  # one after another, the lower triangles alone
        for h, j in zip(H, J, strict=True):
            lower.add_products(h, j.T, weight)
    else:
        H.baddbmm_(J, J.mT, alpha=weight)
