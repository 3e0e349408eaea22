"""The unknowns and the coordinates as a residual sees them: values in arithmetic, derivatives by name."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pinn_lora.domain import Domain
from pinn_lora.jets import Index, Indices, Jet, laplacian, summed


def parse_derivative(name: str, coordinates: tuple[str, ...]) -> Index | None:
    """ "xxt" -> (0, 0, 1) for coordinates (x, t); None where the name cannot be read so."""
    if not name:
        return ()
    for number, coordinate in enumerate(coordinates):
        if name.startswith(coordinate):
            rest = parse_derivative(name[len(coordinate) :], coordinates)
            if rest is not None:
                return tuple(sorted((number, *rest)))
    return None


def spelled(index: Index, coordinates: tuple[str, ...]) -> str:
    """(0, 0, 1) -> "xxt", and a Laplacian as "laplacian(x, y)"."""
    if len(summed(index)) > 1:
        return f"laplacian({', '.join(coordinates[i] for i, _ in summed(index))})"
    return "".join(coordinates[i] for i in index)


class Coordinates:
    """The coordinates by name: p.x, p.t. Tensors (N,) in residuals and references, jets in an ansatz."""

    def __init__(self, values: Sequence[Any], names: tuple[str, ...]) -> None:
        self._values, self._names = tuple(values), names

    @classmethod
    def of(cls, points: Tensor, domain: Domain) -> Coordinates:
        return cls(points.unbind(1), domain.names)

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            return self._values[self._names.index(name)]
        raise AttributeError(f"there is no coordinate {name!r} (coordinates: {', '.join(self._names)})")


class Field:
    """One unknown at the points: itself a tensor (N,) in arithmetic and in comparisons, its derivatives by name, u.t, u.xx,
    u.d("x", "x"), u.laplacian()."""

    def __init__(self, data: Sequence[Tensor] | Tensor, indices: Indices, names: tuple[str, ...]) -> None:
        self._data, self._indices, self._names = data, indices, names

    @property
    def value(self) -> Tensor:
        return self._data[0]

    @property
    def jet(self) -> Jet:
        """The value and its derivatives."""
        data = self._data if isinstance(self._data, Tensor) else torch.stack(list(self._data))
        return Jet(data, self._indices)

    def d(self, *coordinates: str) -> Tensor:
        """The derivative in the named coordinates, one name for each order."""
        return self._take(tuple(sorted(self._number(name) for name in coordinates)))

    def laplacian(self, *coordinates: str) -> Tensor:
        """The sum of the second derivatives in the named coordinates, in all but t where none is named: cheaper than its
        parts where these are not needed beside it."""
        chosen = coordinates or tuple(name for name in self._names if name != "t")
        if not chosen:
            raise AttributeError("laplacian() has no coordinate but t to sum over; name it, as laplacian('t')")
        if len(set(chosen)) < len(chosen):
            raise AttributeError(f"laplacian({', '.join(chosen)}) names a coordinate twice")
        return self._take(laplacian(*(self._number(name) for name in chosen)))

    def _number(self, coordinate: str) -> int:
        if coordinate not in self._names:
            raise AttributeError(f"there is no coordinate {coordinate!r} (coordinates: {', '.join(self._names)})")
        return self._names.index(coordinate)

    def __getattr__(self, name: str) -> Tensor:
        index = None if name.startswith("_") else parse_derivative(name, self._names)
        if index is None:
            raise AttributeError(f"{name!r} names no derivative (coordinates: {', '.join(self._names)})")
        return self._take(index)

    def _take(self, index: Index) -> Tensor:
        try:
            return self._data[self._indices.index(index)]
        except ValueError:
            name, seen = spelled(index, self._names), "when this was run once to see its derivatives"
            raise AttributeError(f"{name} was not asked for {seen}; ask for it in every case") from None

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return function(*values_of(args), **{key: values_of(value) for key, value in (kwargs or {}).items()})

    def __neg__(self) -> Tensor:
        return -self.value

    def __pos__(self) -> Tensor:
        return self.value

    def __abs__(self) -> Tensor:
        return self.value.abs()

    __hash__ = object.__hash__  # two fields that compare point by point are still two


def values_of(found: Any) -> Any:
    """The values of the fields in an argument, in lists and tuples too."""
    if isinstance(found, (list, tuple)):
        return type(found)(values_of(f) for f in found)
    return found.value if isinstance(found, Field) else found


def _delegate(name: str, *, reflected: bool = True) -> None:
    apply = getattr(operator, name)

    def forward(self, other):
        return apply(self.value, other.value if isinstance(other, Field) else other)

    def backward(self, other):
        return apply(other, self.value)

    setattr(Field, f"__{name}__", forward)
    if reflected:
        setattr(Field, f"__r{name}__", backward)


for _name in ("add", "sub", "mul", "truediv", "pow", "mod"):
    _delegate(_name)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _delegate(_name, reflected=False)


class Recorder(Field):
    """Stands in for a field while a residual is run once, and notes which derivatives it asks for."""

    def __init__(self, value: Tensor, names: tuple[str, ...], asked: set[Index]) -> None:
        super().__init__([value], ((),), names)
        self._asked = asked

    def _take(self, index: Index) -> Tensor:
        self._asked.add(index)
        return torch.ones_like(self._data[0])


def components(found: Any) -> tuple[Any, ...]:
    """One or several as a tuple; a bare field stands for its value."""
    return tuple(values_of(f) for f in (found if isinstance(found, (tuple, list)) else (found,)))


def pointwise(found: Any, n: int) -> tuple[Tensor, ...]:
    """The components of what a residual gives at n points, each (n,). ValueError where there is none, or one of another
    shape or not of real floats."""
    if not (parts := components(found)):
        raise ValueError("a residual has at least one component, and this gives none")
    for part in parts:
        if not isinstance(part, Tensor) or part.shape != (n,):
            shape = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"a residual of {n} points must have shape ({n},), not {shape}")
        if not part.is_floating_point():
            advice = "; give its real and imaginary part as two components" if part.is_complex() else ""
            raise ValueError(f"a residual must be real numbers in floating point, not {part.dtype}{advice}")
    return parts
