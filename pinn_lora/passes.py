"""The passes through a network that cost the time of a training step: jets forward, their adjoint, gradients of the layers.

`Passes` runs them operation by operation. `CompiledPasses` traces each once for every shape it meets and gives it to
TorchInductor, which fuses what lies between two matrix products into one loop; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pinn_lora.compiling import KERNELS, Function, run
from pinn_lora.jets import Indices
from pinn_lora.lora import DenseBlock, PairBlock
from pinn_lora.program import (
    Adjoints,
    Dense,
    Frame,
    Layer,
    Record,
    Step,
    Tape,
    adjoint_jets,
    as_matrix,
    forward_jets,
)


@dataclass(frozen=True)
class LayerPlan:
    """What is trained of one layer: its factors, or its weight, as W or as diag(exp s) V, and its bias."""

    pair: PairBlock | None = None
    weight: DenseBlock | None = None  # W, or V where there is an s
    s: DenseBlock | None = None
    bias: DenseBlock | None = None

    @property
    def blocks(self) -> list[PairBlock | DenseBlock]:
        return [block for block in (self.pair, self.weight, self.s, self.bias) if block is not None]


class Bound(NamedTuple):
    """The layers and alpha that a theta makes, and every layer's trained factors: (B, A), (exp s, W), or () where it has
    none."""

    layers: list[Layer]
    alpha: Tensor | None
    factors: list[tuple[Tensor, ...]]

    def flat(self) -> list[Tensor]:
        """All of its tensors."""
        alpha = [] if self.alpha is None else [self.alpha]
        return [*(t for layer in self.layers for t in layer), *alpha, *(t for pair in self.factors for t in pair)]


@dataclass(frozen=True)
class Passes:
    """The passes for one set of derivatives, one network's steps and activation and one choice of what is trained."""

    indices: Indices
    steps: tuple[Step, ...]
    activation: str
    plan: tuple[LayerPlan, ...]
    alpha: DenseBlock | None

    @lru_cache(maxsize=KERNELS)  # noqa: B019 - one object for equal passes, whose kernels are found again; it holds no network
    def compiled(self) -> CompiledPasses:
        return CompiledPasses(self.indices, self.steps, self.activation, self.plan, self.alpha)

    @cached_property
    def inputs(self) -> list[int]:
        """The register that every layer reads."""
        sources = {step.layer: step.sources[0] for step in self.steps if step.layer is not None}
        return [sources[i] for i in range(len(self.plan))]

    @cached_property
    def live(self) -> list[bool]:
        """The registers that something trained has a part in: the adjoint goes no further."""
        found = [False]
        for step in self.steps:
            trained = step.layer is not None and bool(self.plan[step.layer].blocks)
            mixed = step.connection is not None and self.alpha is not None
            found.append(trained or mixed or any(found[source] for source in step.sources))
        return found

    @cached_property
    def trained(self) -> list[int]:
        """The layers of which something is trained."""
        return [i for i, layer in enumerate(self.plan) if layer.blocks]

    def frame(self, bound: Bound, *, pure: bool = False) -> Frame:
        return Frame(bound.layers, bound.alpha, self.indices, self.activation, pure)

    def forward(self, bound: Bound, features: Tensor) -> tuple[Tensor, Record]:
        """Output jets (S, N, fields)."""
        record = forward_jets(self.steps, self.frame(bound), features)
        return record.values[-1], record

    def adjoints(self, bound: Bound, record: Record, seed: Tensor) -> Adjoints:
        """Those of everything trained, for the outputs' adjoint `seed`."""
        return adjoint_jets(self.steps, self.frame(bound), record, seed, self.live)

    def gradients(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        """The gradients of everything trained, layer by layer, in the order of `LayerPlan.blocks`, and last of alpha."""
        return self._gradients(bound, record, self.adjoints(bound, record, seed))

    def _gradients(self, bound: Bound, record: Record, found: Adjoints) -> list[Tensor]:
        gradients = []
        for i in self.trained:
            H = record.values[self.inputs[i]]
            gradients += layer_gradients(self.plan[i], found.layers[i], H, bound.factors[i])
        if self.alpha is not None:
            gradients.append(torch.stack([found.connections[k].sum() for k in sorted(found.connections)]))
        return gradients


def layer_gradients(plan: LayerPlan, D: Tensor, H: Tensor, factors: tuple[Tensor, ...]) -> list[Tensor]:
    """sum_si D_si H_si^T and its products with the factors, from the adjoint D and the input H of a layer.

    Thin products are written with their short side first, which runs several times faster than the transpose.
    """
    found, D2, H2 = [], as_matrix(D), as_matrix(H)
    if plan.pair is not None:
        B, A = factors
        found += [plan.pair.scale * ((A @ H2) @ D2.T).T, plan.pair.scale * ((B.T @ D2) @ H2.T)]
    if plan.weight is not None:
        G = (H2 @ D2.T).T if len(H2) < len(D2) else D2 @ H2.T
        found += [G] if plan.s is None else [factors[0][:, None] * G, (factors[1] * G).sum(1)]
    if plan.bias is not None:
        found.append(D[0].sum(0))
    return found


@dataclass(frozen=True)
class CompiledPasses(Passes):
    """The same numbers from compiled code. The tapes it leaves have no phi, which is made again."""

    def _run(self, function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
        return run(function, tensors)

    @cached_property
    def dense(self) -> list[tuple[int, Dense]]:
        """The activated layers' steps, with the register that each makes."""
        return [(i, step) for i, step in enumerate(self.steps, start=1) if isinstance(step, Dense)]

    def forward(self, bound: Bound, features: Tensor) -> tuple[Tensor, Record]:
        found, made = self._run(self._forward, [features, *bound.flat()]), len(self.steps)
        tapes = {step.number: Tape(z, []) for (_, step), z in zip(self.dense, found[made:], strict=True)}
        return found[made - 1], Record([features, *found[:made]], tapes)

    def adjoints(self, bound: Bound, record: Record, seed: Tensor) -> Adjoints:
        found = self._run(self._adjoints, self._arguments(bound, record, seed))
        layers = dict(zip(self.trained, found, strict=False))
        return Adjoints(layers, dict(enumerate(found[len(layers) :])))

    def gradients(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        return self._run(self._all_gradients, self._arguments(bound, record, seed))

    def _forward(self, features: Tensor, *flat: Tensor) -> list[Tensor]:
        record = forward_jets(self.steps, self.frame(self._unflat(flat), pure=True), features)
        return [*record.values[1:], *(record.tapes[step.number].z for _, step in self.dense)]

    def _again(self, rest: Sequence[Tensor]) -> tuple[Bound, Record]:
        """The network and the record of a forward pass, from all arguments but the seed."""
        made = len(self.steps)
        values, z, flat = rest[:made], rest[made : made + len(self.dense)], rest[made + len(self.dense) :]
        bound = self._unflat(flat)
        frame = self.frame(bound, pure=True)
        made_again = zip(self.dense, z, strict=True)
        tapes = {step.number: step.tape(frame, u, values[i][0]) for (i, step), u in made_again}
        return bound, Record(list(values), tapes)

    def _adjoints(self, seed: Tensor, *rest: Tensor) -> list[Tensor]:
        bound, record = self._again(rest)
        found = adjoint_jets(self.steps, self.frame(bound, pure=True), record, seed, self.live)
        rows = [] if self.alpha is None else [found.connections[k] for k in sorted(found.connections)]
        return [*(found.layers[i] for i in self.trained), *rows]

    def _all_gradients(self, seed: Tensor, *rest: Tensor) -> list[Tensor]:
        bound, record = self._again(rest)
        found = adjoint_jets(self.steps, self.frame(bound, pure=True), record, seed, self.live)
        return self._gradients(bound, record, found)

    def _arguments(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        """The seed and the record, without the outputs, which no adjoint reads."""
        z = [record.tapes[step.number].z for _, step in self.dense]
        return [seed.contiguous(), *record.values[:-1], *z, *bound.flat()]

    def _unflat(self, flat: Sequence[Tensor]) -> Bound:
        depth = len(self.plan)
        layers, rest = [Layer(flat[2 * i], flat[2 * i + 1]) for i in range(depth)], iter(flat[2 * depth :])
        alpha = next(rest) if any(step.connection is not None for step in self.steps) else None
        pairs = [(next(rest), next(rest)) if plan.pair or plan.s else () for plan in self.plan]
        return Bound(layers, alpha, pairs)
