"""A network as a short program over jets: every step makes one register from earlier ones, forward and, by hand, backward.

Register 0 holds the features, register i + 1 what step i makes; the last one holds the outputs. All are jets (S, N, n): S
derivatives, N points, n units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pinn_lora.activations import ACTIVATIONS
from pinn_lora.jets import Indices, compose, compose_adjoint, max_order, multiply_add, multiply_adjoint


class Layer(NamedTuple):
    """What a linear layer does, frozen part and adapter together: y = x weight^T + bias."""

    weight: Tensor
    bias: Tensor


class Tape(NamedTuple):
    """What the adjoint of an activated layer needs: pre-activation jets (S, N, m), without the bias in their value, and
    phi, phi', ... at that value."""

    z: Tensor
    phi: list[Tensor]


class Record(NamedTuple):
    """What a forward pass leaves for its adjoint: every register, and the tapes of activated layers by layer."""

    values: list[Tensor]
    tapes: dict[int, Tape]


class Adjoints(NamedTuple):
    """By layer the adjoint of its pre-activation (S, N, m), by residual connection the derivative in its alpha (N,)."""

    layers: dict[int, Tensor]
    connections: dict[int, Tensor]


@dataclass(frozen=True)
class Frame:
    """What the steps of one pass share: the layers, alpha (K,) of the residual connections, and which derivatives travel
    through which activation. Nothing is written in place where `pure`."""

    layers: Sequence[Layer]
    alpha: Tensor | None
    indices: Indices
    activation: str
    pure: bool = False


class Modules(NamedTuple):
    """The same for plain tensors: the layers as functions, the activation and alpha."""

    layers: Sequence[Callable[[Tensor], Tensor]]
    activation: Callable[[Tensor], Tensor]
    alpha: Tensor | None


@dataclass(frozen=True)
class Step(ABC):
    """One step. `layer` and `connection` number the linear layer and the residual connection that it owns, if any."""

    @property
    def layer(self) -> int | None:
        return None

    @property
    def connection(self) -> int | None:
        return None

    @property
    @abstractmethod
    def sources(self) -> tuple[int, ...]:
        """The registers it reads."""

    @abstractmethod
    def value(self, modules: Modules, h: Sequence[Tensor]) -> Tensor:
        """What it makes of tensors (N, n)."""

    @abstractmethod
    def jets(self, frame: Frame, record: Record) -> Tensor:
        """What it makes of jets."""

    @abstractmethod
    def adjoint(
        self, frame: Frame, record: Record, D: Tensor, live: Sequence[bool], found: Adjoints
    ) -> Iterator[tuple[int, Tensor]]:
        """For the adjoint D of what it made, the adjoints of the `live` registers that it read; those of what it owns are put
        into `found`. D goes to one place at most, or is overwritten."""


@dataclass(frozen=True)
class Linear(Step):
    """W h + b."""

    number: int
    source: int

    @property
    def layer(self) -> int:
        return self.number

    @property
    def sources(self) -> tuple[int, ...]:
        return (self.source,)

    def value(self, modules: Modules, h: Sequence[Tensor]) -> Tensor:
        return modules.layers[self.number](h[self.source])

    def jets(self, frame: Frame, record: Record) -> Tensor:
        layer = frame.layers[self.number]
        z = linear_jets(record.values[self.source], layer.weight)
        return torch.cat([z[:1] + layer.bias, z[1:]])

    def adjoint(self, frame, record, D, live, found):
        found.layers[self.number] = D
        if live[self.source]:
            yield self.source, linear_jets(D, frame.layers[self.number].weight.T)


@dataclass(frozen=True)
class Dense(Linear):
    """phi(W h + b)."""

    def value(self, modules: Modules, h: Sequence[Tensor]) -> Tensor:
        return modules.activation(super().value(modules, h))

    def jets(self, frame: Frame, record: Record) -> Tensor:
        layer = frame.layers[self.number]
        tape = self.tape(frame, linear_jets(record.values[self.source], layer.weight))
        record.tapes[self.number] = tape
        return compose(tape.phi, tape.z, frame.indices, pure=frame.pure)

    def tape(self, frame: Frame, z: Tensor, value: Tensor | None = None) -> Tape:
        """From the pre-activation; `value` is phi there, where it is known."""
        order = max_order(frame.indices) + 1
        u = z[0] + frame.layers[self.number].bias  # the bias belongs to the value alone, which nothing else reads
        return Tape(z, ACTIVATIONS[frame.activation].derivatives(u, order, value))

    def adjoint(self, frame, record, D, live, found):
        tape = record.tapes[self.number]
        back = compose_adjoint(tape.phi, tape.z, D, frame.indices, pure=frame.pure, out=D)  # D is nobody else's
        yield from super().adjoint(frame, record, back, live, found)


@dataclass(frozen=True)
class Difference(Step):
    """u - v."""

    left: int
    right: int

    @property
    def sources(self) -> tuple[int, ...]:
        return self.left, self.right

    def value(self, modules: Modules, h: Sequence[Tensor]) -> Tensor:
        return h[self.left] - h[self.right]

    def jets(self, frame: Frame, record: Record) -> Tensor:
        return record.values[self.left] - record.values[self.right]

    def adjoint(self, frame, record, D, live, found):
        if live[self.left]:
            yield self.left, D
        if live[self.right]:
            yield self.right, -D


@dataclass(frozen=True)
class Gate(Step):
    """v + z w, which is z u + (1 - z) v for w = u - v."""

    z: int
    w: int
    v: int

    @property
    def sources(self) -> tuple[int, ...]:
        return self.z, self.w, self.v

    def value(self, modules: Modules, h: Sequence[Tensor]) -> Tensor:
        return h[self.v] + h[self.z] * h[self.w]

    def jets(self, frame: Frame, record: Record) -> Tensor:
        z, w, v = (record.values[source] for source in self.sources)
        return multiply_add(v, z, w, frame.indices, pure=frame.pure)

    def adjoint(self, frame, record, D, live, found):
        for source, other in ((self.z, self.w), (self.w, self.z)):
            if live[source]:
                yield source, multiply_adjoint(record.values[other], D, frame.indices, pure=frame.pure)
        if live[self.v]:
            yield self.v, D


@dataclass(frozen=True)
class Mix(Step):
    """alpha h + (1 - alpha) x, with the alpha of its number."""

    number: int
    h: int
    x: int

    @property
    def connection(self) -> int:
        return self.number

    @property
    def sources(self) -> tuple[int, ...]:
        return self.h, self.x

    def value(self, modules: Modules, h: Sequence[Tensor]) -> Tensor:
        return torch.lerp(h[self.x], h[self.h], _number(modules.alpha, self.number))

    def jets(self, frame: Frame, record: Record) -> Tensor:
        return torch.lerp(record.values[self.x], record.values[self.h], _number(frame.alpha, self.number))

    def adjoint(self, frame, record, D, live, found):
        alpha = _number(frame.alpha, self.number)
        found.connections[self.number] = (D * (record.values[self.h] - record.values[self.x])).sum((0, 2))
        if live[self.h]:
            yield self.h, alpha * D
        if live[self.x]:
            yield self.x, (1.0 - alpha) * D


def _number(alpha: Tensor | None, number: int) -> Tensor:
    assert alpha is not None  # a network with residual connections has one
    return alpha[number]


class Wiring:
    """Writes a program step by step and adds up the layers that it needs; every method returns the register it makes."""

    def __init__(self, inputs: int) -> None:
        self.steps: list[Step] = []
        self.widths = [inputs]  # of the registers
        self.shapes: list[tuple[int, int]] = []  # of the layers, (m, n)
        self.connections = 0

    def _add(self, step: Step, width: int) -> int:
        self.steps.append(step)
        self.widths.append(width)
        return len(self.steps)

    def linear(self, source: int, width: int) -> int:
        """W h + b, by a new layer of `width` units."""
        self.shapes.append((width, self.widths[source]))
        return self._add(Linear(len(self.shapes) - 1, source), width)

    def dense(self, source: int, width: int) -> int:
        """phi(W h + b), by a new layer of `width` units."""
        self.shapes.append((width, self.widths[source]))
        return self._add(Dense(len(self.shapes) - 1, source), width)

    def difference(self, left: int, right: int) -> int:
        """u - v."""
        return self._add(Difference(left, right), self._same(left, right))

    def gate(self, z: int, w: int, v: int) -> int:
        """v + z w, which is z u + (1 - z) v for w = u - v."""
        return self._add(Gate(z, w, v), self._same(z, w, v))

    def mix(self, h: int, x: int) -> int:
        """alpha h + (1 - alpha) x, with a new alpha."""
        self.connections += 1
        return self._add(Mix(self.connections - 1, h, x), self._same(h, x))

    def _same(self, *registers: int) -> int:
        widths = {self.widths[register] for register in registers}
        if len(widths) > 1:
            raise ValueError(f"registers of {' and '.join(map(str, sorted(widths)))} units cannot be joined")
        return widths.pop()


def forward_jets(steps: Sequence[Step], frame: Frame, features: Tensor) -> Record:
    """All registers; the last holds the output jets (S, N, fields)."""
    record = Record([features], {})
    for step in steps:
        record.values.append(step.jets(frame, record))
    return record


def adjoint_jets(
    steps: Sequence[Step], frame: Frame, record: Record, seed: Tensor, live: Sequence[bool] | None = None
) -> Adjoints:
    """The adjoints of what the steps own, for the adjoint `seed` (S, N, fields) of the outputs, as far down as registers are
    `live`: those that something trained has a part in, all where it is not given."""
    live = [True] * (len(steps) + 1) if live is None else live
    waiting, found = {len(steps): seed}, Adjoints({}, {})
    for register in range(len(steps), 0, -1):
        if register in waiting:
            D = waiting.pop(register)
            for source, back in steps[register - 1].adjoint(frame, record, D, live, found):
                waiting[source] = waiting[source] + back if source in waiting else back
    return found


def units_first(dtype: torch.dtype) -> bool:
    """Whether jets (S, N, n) lie in memory as (n, S, N): in float64 the products with the small matrices of a layer run
    faster so, in float32 slower."""
    return dtype == torch.float64


def as_matrix(h: Tensor) -> Tensor:
    """Jets (S, N, n) as a matrix (n, S N)."""
    return h.permute(2, 0, 1).reshape(h.shape[-1], -1) if units_first(h.dtype) else h.reshape(-1, h.shape[-1]).T


def linear_jets(h: Tensor, weight: Tensor) -> Tensor:
    """A linear layer without its bias on jets (S, N, n)."""
    product = torch.mul if h.shape[-1] == 1 else torch.matmul
    if units_first(h.dtype):
        return product(weight, as_matrix(h)).view(-1, *h.shape[:2]).permute(1, 2, 0)
    return product(h.reshape(-1, h.shape[-1]), weight.T).view(*h.shape[:2], -1)
