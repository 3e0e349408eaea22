"""The passes through an MLP that cost the time of a training step: jets forward, their adjoint, gradients of the layers.

`Passes` runs them operation by operation. `CompiledPasses` traces each once for every shape it meets and gives it to
TorchInductor, which fuses what lies between two matrix products into one loop; the numbers are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pinn_lora.activations import ACTIVATIONS
from pinn_lora.clock import seconds
from pinn_lora.jets import Indices, max_order
from pinn_lora.lora import DenseBlock, PairBlock
from pinn_lora.network import Layer, Tape, adjoint_jets, as_matrix, forward_jets


@dataclass(frozen=True)
class LayerPlan:
    """What is trained of one layer: its factors or its weight, and its bias."""

    pair: PairBlock | None
    weight: DenseBlock | None
    bias: DenseBlock | None

    @property
    def blocks(self) -> list[PairBlock | DenseBlock]:
        return [block for block in (self.pair, self.weight, self.bias) if block is not None]


class Bound(NamedTuple):
    """theta, the layers it makes and every layer's trained factors (B, A), () where it has none."""

    theta: Tensor
    layers: list[Layer]
    factors: list[tuple[Tensor, ...]]


class Record(NamedTuple):
    """What a forward pass leaves for its adjoint: every layer's input jets, and the hidden layers' tapes."""

    inputs: list[Tensor]
    tapes: list[Tape]


@dataclass(frozen=True)
class Passes:
    """The passes for one set of derivatives, one activation and one choice of what is trained."""

    indices: Indices
    activation: str
    plan: tuple[LayerPlan, ...]

    @cache  # noqa: B019 - one object for equal passes, whose kernels are found again
    def compiled(self) -> CompiledPasses:
        return CompiledPasses(self.indices, self.activation, self.plan)

    @property
    def lowest(self) -> int:
        """The first layer that is trained: the adjoint stops there."""
        return next(i for i, layer in enumerate(self.plan) if layer.blocks)

    def forward(self, bound: Bound, features: Tensor) -> tuple[Tensor, Record]:
        """Output jets (S, N, fields)."""
        outputs, inputs, tapes = forward_jets(bound.layers, features, self.indices, self.activation)
        return outputs, Record(inputs, tapes)

    def adjoints(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        """The adjoints of the pre-activations of layer `lowest` and all above it, for the outputs' adjoint `seed`."""
        return adjoint_jets(bound.layers, record.tapes, seed, self.indices, self.lowest)

    def gradients(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        """The gradients of everything trained, layer by layer, in the order of `LayerPlan.blocks`."""
        return self._gradients(self.adjoints(bound, record, seed), record.inputs, bound.factors)

    def _gradients(self, adjoints: list[Tensor], inputs: Sequence[Tensor], factors: Sequence[tuple[Tensor, ...]]):
        found = []
        for i, D in enumerate(adjoints, start=self.lowest):
            found += layer_gradients(self.plan[i], D, inputs[i], factors[i])
        return found


def layer_gradients(plan: LayerPlan, D: Tensor, H: Tensor, factors: tuple[Tensor, ...]) -> list[Tensor]:
    """sum_si D_si H_si^T and its products with the factors, from the adjoint D and the input H of a layer.

    Thin products are written with their short side first, which runs several times faster than the transpose.
    """
    found, D2, H2 = [], as_matrix(D), as_matrix(H)
    if plan.pair is not None:
        B, A = factors
        found += [plan.pair.scale * ((A @ H2) @ D2.T).T, plan.pair.scale * ((B.T @ D2) @ H2.T)]
    if plan.weight is not None:
        found.append((H2 @ D2.T).T if len(H2) < len(D2) else D2 @ H2.T)
    if plan.bias is not None:
        found.append(D[0].sum(0))
    return found


@dataclass(frozen=True)
class CompiledPasses(Passes):
    """The same numbers from compiled code. The tapes it leaves have no phi: making it again costs less than memory."""

    def forward(self, bound: Bound, features: Tensor) -> tuple[Tensor, Record]:
        found = _run(self._forward, [features, *_flat(bound)])
        hidden = len(self.plan) - 1
        tapes = [Tape(z, []) for z in found[1 + hidden :]]
        return found[0], Record([features, *found[1 : 1 + hidden]], tapes)

    def adjoints(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        return _run(self._adjoints, self._arguments(bound, record, seed))

    def gradients(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        return _run(self._all_gradients, self._arguments(bound, record, seed))

    def _forward(self, features: Tensor, *flat: Tensor) -> list[Tensor]:
        layers, _ = self._unflat(flat)
        outputs, inputs, tapes = forward_jets(layers, features, self.indices, self.activation, pure=True)
        return [outputs, *inputs[1:], *(tape.z for tape in tapes)]

    def _adjoints(self, seed: Tensor, *rest: Tensor) -> list[Tensor]:
        depth = len(self.plan)
        inputs, z, (layers, _) = rest[:depth], rest[depth : 2 * depth - 1], self._unflat(rest[2 * depth - 1 :])
        derivatives, order, tapes = ACTIVATIONS[self.activation].derivatives, max_order(self.indices) + 1, []
        for i in range(depth - 1):
            phi = derivatives(z[i][0] + layers[i].bias, order, inputs[i + 1][0])
            tapes.append(Tape(z[i], phi))
        return adjoint_jets(layers, tapes, seed, self.indices, self.lowest, pure=True)

    def _all_gradients(self, seed: Tensor, *rest: Tensor) -> list[Tensor]:
        depth = len(self.plan)
        _, factors = self._unflat(rest[2 * depth - 1 :])
        return self._gradients(self._adjoints(seed, *rest), rest[:depth], factors)

    def _arguments(self, bound: Bound, record: Record, seed: Tensor) -> list[Tensor]:
        return [seed.contiguous(), *record.inputs, *(tape.z for tape in record.tapes), *_flat(bound)]

    def _unflat(self, flat: Sequence[Tensor]) -> tuple[list[Layer], list[tuple[Tensor, ...]]]:
        depth, rest = len(self.plan), iter(flat[2 * len(self.plan) :])
        layers = [Layer(flat[2 * i], flat[2 * i + 1]) for i in range(depth)]
        return layers, [(next(rest), next(rest)) if plan.pair is not None else () for plan in self.plan]


def _flat(bound: Bound) -> list[Tensor]:
    return [tensor for group in (*bound.layers, *bound.factors) for tensor in group]


_kernels: dict[tuple, Callable[..., list[Tensor]]] = {}
_broken = False  # set once when nothing can be compiled here
_seconds = 0.0  # spent on compiling so far


def can_compile() -> bool:
    """Whether compiling has not failed in this process so far."""
    return not _broken


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling so far, by the clock that runs are timed by."""
    return _seconds


def _run(function: Callable[..., list[Tensor]], tensors: Sequence[Tensor]) -> list[Tensor]:
    """function(*tensors), compiled for their shapes; a warning, once, and the function itself where that fails.

    Not torch.compile: it keeps at most eight shapes of a function, and its guards take longer than the short kernels.
    """
    global _broken, _seconds
    layout = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    key = (function, torch.get_num_threads(), layout)
    if key not in _kernels and not _broken:
        start = seconds(tensors[0].device)
        try:
            _kernels[key] = _compile(function, tensors)
        except Exception as error:
            _broken = True
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"compile=True is turned off, the numbers stay the same: {reason}", stacklevel=2)
        _seconds += seconds(tensors[0].device) - start
    return _kernels.get(key, function)(*tensors)


def _compile(function: Callable[..., list[Tensor]], tensors: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    import torch._inductor  # takes a second, so only where it is asked for
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        graph = make_fx(function)(*tensors)
        return cast(Callable[..., list[Tensor]], torch._inductor.compile(graph, list(tensors)))
