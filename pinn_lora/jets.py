"""Truncated Taylor algebra: a value carried together with its derivatives in the coordinates.

A derivative is named by a sorted tuple of coordinate numbers, an *index*: () is the value, (0,) is u_x, (0, 0) is u_xx,
(0, 1) is u_xt where x is coordinate 0 and t coordinate 1. A Laplacian is an index of its own, `laplacian(0, 1)` is
u_xx + u_yy: it needs u_x and u_y and neither u_xx nor u_yy, so that d coordinates take d + 2 rows instead of 2 d + 1 (the
forward Laplacian of Li et al. 2024, arXiv 2307.08214). A jet stacks the derivatives of a downward-closed set of indices along
its first axis. Products follow Leibniz' rule, compositions Faa di Bruno's formula; both are tables made once for a set of
indices, so any order and any number of coordinates run through the same few lines.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, reduce
from itertools import combinations

import torch
from torch import Tensor

Index = tuple[int, ...]
Indices = tuple[Index, ...]
LAPLACE = -1  # stands before the coordinates of a Laplacian


def laplacian(*coordinates: int) -> Index:
    """The index of the sum of second derivatives in these coordinates, each named once."""
    chosen = tuple(sorted(coordinates))
    return (LAPLACE, *chosen) if len(chosen) > 1 else 2 * chosen


def summed(index: Index) -> tuple[Index, ...]:
    """The derivatives whose sum an index names: those of a Laplacian, else itself alone."""
    return tuple((i, i) for i in index[1:]) if index[:1] == (LAPLACE,) else (index,)


def order_of(index: Index) -> int:
    return len(summed(index)[0])


def closure(indices: Iterable[Index]) -> Indices:
    """The smallest downward-closed set that holds `indices` and the value, ordered by order, then by index."""
    found: set[Index] = {()}
    for index in indices:
        index = tuple(sorted(index))
        if index[:1] == (LAPLACE,):
            found |= {index, *((i,) for i in index[1:])}
            continue
        for size in range(1, len(index) + 1):
            found.update(combinations(index, size))
    return tuple(sorted(found, key=lambda index: (order_of(index), index)))


def max_order(indices: Indices) -> int:
    return order_of(indices[-1])


@lru_cache
def product_table(indices: Indices) -> tuple[tuple[tuple[float, int, int], ...], ...]:
    """Leibniz' rule, (f g)_a = sum c f_b g_c: for each index the terms (c, position of b, position of c)."""
    position = {index: i for i, index in enumerate(indices)}
    table = []
    for index in indices:
        terms: Counter[tuple[int, int]] = Counter({(0, position[index]): 1})
        for part in summed(index):
            places = range(len(part))
            for size in range(1, len(part)):
                for chosen in combinations(places, size):
                    left = tuple(part[i] for i in chosen)
                    right = tuple(part[i] for i in places if i not in chosen)
                    terms[position[left], position[right]] += 1
        if index:
            terms[position[index], 0] += 1
        table.append(tuple((float(c), b, d) for (b, d), c in terms.items()))
    return tuple(table)


def _partitions(places: Sequence[int]) -> list[list[tuple[int, ...]]]:
    """All partitions of `places` into non-empty blocks."""
    if not places:
        return [[]]
    first, rest = places[0], places[1:]
    found = []
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            remaining = [place for place in rest if place not in others]
            found += [[(first, *others), *blocks] for blocks in _partitions(remaining)]
    return found


@lru_cache
def composition_table(indices: Indices) -> tuple[tuple[int, float, tuple[int, ...]], ...]:
    """Faa di Bruno's terms beyond the linear one: phi(u)_a = phi' u_a + sum c phi^(k) u_b1 ... u_bk, k >= 2.

    Each entry is (position of a, c, positions of b1 ... bk).
    """
    position = {index: i for i, index in enumerate(indices)}
    table = []
    for a, index in enumerate(indices):
        terms: Counter[tuple[int, ...]] = Counter()
        for part in summed(index):
            for blocks in _partitions(range(len(part))):
                if len(blocks) > 1:
                    terms[tuple(sorted(position[tuple(part[i] for i in block)] for block in blocks))] += 1
        table += [(a, float(c), factors) for factors, c in terms.items()]
    return tuple(table)


def _watched(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _product(factors: Iterable[Tensor]) -> Tensor:
    return reduce(operator.mul, factors)  # math.prod would spend a pass over memory on its 1


def _stack(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    """The rows as one tensor, laid out in memory as `like` is."""
    if like.dim() == 3 and like.stride(0) < like.stride(2):
        return torch.stack([row.T for row in rows], dim=1).permute(1, 2, 0)
    return torch.stack(list(rows))


def compose(
    phi: Sequence[Tensor], u: Tensor, indices: Indices, *, pure: bool = False, live: frozenset[int] | None = None
) -> Tensor:
    """The stacked derivatives of phi(u): `u` is (S, ...), phi[k] the k-th derivative of phi at its value.

    The value u[0] itself is not read. Nothing is written in place where `pure`, or under autograd. live: the rows of u that
    are not known to be zero, where that is known.
    """
    pure = pure or _watched(u, phi[0])
    out = u if pure else torch.empty_like(u)
    if pure:
        rows, add = [phi[0], *(u[a] * phi[1] for a in range(1, len(indices)))], torch.addcmul
    else:
        out[0] = phi[0]
        if len(indices) > 1:
            torch.mul(u[1:], phi[1], out=out[1:])
        rows, add = list(out.unbind(0)), Tensor.addcmul_
    for a, c, factors in composition_table(indices):
        if live is None or live.issuperset(factors):
            rows[a] = add(rows[a], _product(u[b] for b in factors), phi[len(factors)], value=c)
    return _stack(rows, like=u) if pure else out


def compose_adjoint(
    phi: Sequence[Tensor],
    u: Tensor,
    adjoint: Tensor,
    indices: Indices,
    *,
    pure: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Transpose of the derivative of `compose` in u, applied to `adjoint` (S, ...). Needs phi up to one order more. `out` is
    what it is written to where nothing is pure; it may be the adjoint."""
    pure = pure or _watched(u, phi[0], adjoint)
    add, more = torch.addcmul if pure else Tensor.addcmul_, []  # products for the rows, made before the adjoint is lost
    if len(indices) > 1:
        linear = adjoint[1] * u[1]
        for a in range(2, len(indices)):
            linear = add(linear, adjoint[a], u[a])
        more.append((0, linear, phi[2], 1.0))
    for a, c, factors in composition_table(indices):
        k = len(factors)
        for b, times in Counter(factors).items():  # equal factors give equal terms
            others = list(factors)
            others.remove(b)
            weighted = adjoint[a] * _product(u[other] for other in others)
            more.append((b, weighted, phi[k], c * times))
        more.append((0, weighted * u[b], phi[k + 1], c))
    out = torch.mul(adjoint, phi[1], out=None if pure else out)
    rows = list(out.unbind(0))
    for b, left, right, c in more:
        rows[b] = add(rows[b], left, right, value=c)
    return _stack(rows, like=u) if pure else out


def multiply_add(base: Tensor, f: Tensor, g: Tensor, indices: Indices, *, pure: bool = False) -> Tensor:
    """The stacked derivatives of base + f g, all three (S, ...), by Leibniz' rule."""
    pure = pure or _watched(base, f, g)
    out, add = (base, torch.addcmul) if pure else (base.clone(), Tensor.addcmul_)
    rows = list(out.unbind(0))
    for a, terms in enumerate(product_table(indices)):
        for c, b, d in terms:
            rows[a] = add(rows[a], f[b], g[d], value=c)
    return _stack(rows, like=base) if pure else out


def multiply_adjoint(f: Tensor, adjoint: Tensor, indices: Indices, *, pure: bool = False) -> Tensor:
    """Transpose of g -> f g on stacked derivatives, applied to `adjoint` (S, ...)."""
    pure = pure or _watched(f, adjoint)
    out, add = adjoint * f[0], torch.addcmul if pure else Tensor.addcmul_
    rows = list(out.unbind(0))
    for a, terms in enumerate(product_table(indices)):
        for c, b, d in terms:
            if b:  # the terms with f's value are there already
                rows[d] = add(rows[d], f[b], adjoint[a], value=c)
    return _stack(rows, like=adjoint) if pure else out


class Jet:
    """A value and its derivatives: `data` (S, ...) stacks the derivatives named by `indices`. `live` are the rows that are not
    known to be zero, all where it is not given.

    Arithmetic with numbers, tensors that do not depend on the coordinates, and jets of the same indices; what is known to be
    zero is not multiplied: most of a formula in one coordinate has no derivative in the others.
    """

    __slots__ = ("data", "indices", "live")

    def __init__(self, data: Tensor, indices: Indices, live: frozenset[int] | None = None) -> None:
        self.data, self.indices = data, indices
        self.live = frozenset(range(len(indices))) if live is None else live

    @classmethod
    def coordinate(cls, points: Tensor, number: int, indices: Indices) -> Jet:
        """Coordinate `number` of the points (N, d) as a jet: its own derivative is 1, all others 0."""
        data = points.new_zeros(len(indices), points.shape[0])
        data[0] = points[:, number]
        if (number,) not in indices:
            return cls(data, indices, frozenset([0]))
        own = indices.index((number,))
        data[own] = 1.0
        return cls(data, indices, frozenset([0, own]))

    def __add__(self, other: Jet | Tensor | float) -> Jet:
        if isinstance(other, Jet):
            return Jet(self.data + other.data, self.indices, self.live | other.live)
        return Jet(torch.cat([(self.data[0] + other).unsqueeze(0), self.data[1:]]), self.indices, self.live | {0})

    def __neg__(self) -> Jet:
        return Jet(-self.data, self.indices, self.live)

    def __sub__(self, other: Jet | Tensor | float) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Tensor | float) -> Jet:
        return (-self) + other

    def __mul__(self, other: Jet | Tensor | float) -> Jet:
        if not isinstance(other, Jet):
            nothing = isinstance(other, (int, float)) and other == 0
            return Jet(self.data * other, self.indices, frozenset() if nothing else self.live)
        f, g, found = self.data.unbind(0), other.data.unbind(0), {}
        for a, terms in enumerate(product_table(self.indices)):
            for c, b, d in terms:
                if b in self.live and d in other.live:
                    left = f[b] if c == 1.0 else c * f[b]
                    found[a] = torch.addcmul(found[a], left, g[d]) if a in found else left * g[d]
        zero = torch.zeros_like(next(iter(found.values()), f[0] * g[0]))
        rows = [found.get(a, zero) for a in range(len(self.indices))]
        return Jet(torch.stack(rows), self.indices, frozenset(found))

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Jet | Tensor | float) -> Jet:
        return self * (other**-1 if isinstance(other, Jet) else 1.0 / other)

    def __rtruediv__(self, other: Tensor | float) -> Jet:
        return self**-1 * other

    def __pow__(self, power: float) -> Jet:
        if isinstance(power, int) and 1 <= power <= 4:
            return math.prod([self] * (power - 1), start=self)
        return self.apply(lambda u, order: _power_derivatives(u, power, order))

    def __eq__(self, other: object) -> bool:
        raise TypeError("an ansatz cannot compare its arguments (< > == and the like): it must be smooth")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = object.__hash__

    def apply(self, derivatives: Callable[[Tensor, int], list[Tensor]]) -> Jet:
        """phi of this jet; `derivatives(u, order)` gives phi, phi', ..., phi^(order) at u."""
        data = compose(derivatives(self.data[0], max_order(self.indices)), self.data, self.indices, live=self.live)
        curved = {a for a, _, factors in composition_table(self.indices) if self.live.issuperset(factors)}
        return Jet(data, self.indices, self.live | curved | {0})

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """torch.sin(jet) and the like mean the jet's own sin; a tensor on the left of an operator means the right one."""
        name = function.__name__.strip("_")
        if name in FUNCTIONS:
            return args[0].apply(FUNCTIONS[name])
        reflected = {"add": "__radd__", "mul": "__rmul__", "sub": "__rsub__", "rsub": "__sub__", "div": "__rtruediv__"}
        if name in reflected and isinstance(args[1], Jet):
            return getattr(args[1], reflected[name])(args[0])
        raise TypeError(f"torch.{name} has no jet; there are {', '.join(sorted(FUNCTIONS))} and + - * / **")


def _power_derivatives(u: Tensor, power: float, order: int) -> list[Tensor]:
    found, factor = [], 1.0
    for k in range(order + 1):
        found.append(factor * u ** (power - k) if factor else torch.zeros_like(u))
        factor *= power - k
    return found


@lru_cache
def _tanh_polynomial(order: int) -> tuple[float, ...]:
    """The coefficients of the order-th derivative as a polynomial in T: d/du T^j = j (T^(j-1) - T^(j+1))."""
    found = [0.0, 1.0]
    for _ in range(order):
        derived = [0.0] * (len(found) + 1)
        for j, c in enumerate(found[1:], start=1):
            derived[j - 1] += j * c
            derived[j + 1] -= j * c
        found = derived
    return tuple(found)


def tanh_derivatives(u: Tensor, order: int, value: Tensor | None = None) -> list[Tensor]:
    """tanh and its derivatives by T' = 1 - T^2; those up to the third in few passes over memory.

    `value` is tanh u where it is known.
    """
    one = u.new_ones(())
    value = torch.tanh(u) if value is None else value
    found = [value]
    if order >= 1:
        found.append(torch.addcmul(one, value, value, value=-1.0))
    if order >= 2:
        found.append(torch.addcmul(u.new_zeros(()), value, found[1], value=-2.0))
    if order >= 3:
        found.append(torch.rsub(found[1], 4.0, alpha=6.0) * found[1])
    for k in range(4, order + 1):
        found.append(sum((c * value**j for j, c in enumerate(_tanh_polynomial(k)) if c), start=u.new_zeros(())))
    return found


def sin_derivatives(u: Tensor, order: int, value: Tensor | None = None) -> list[Tensor]:
    """sin and its derivatives; `value` is sin u where it is known."""
    s, c = torch.sin(u) if value is None else value, torch.cos(u)
    return [(s, c, -s, -c)[k % 4] for k in range(order + 1)]


def cos_derivatives(u: Tensor, order: int) -> list[Tensor]:
    s, c = torch.sin(u), torch.cos(u)
    return [(c, -s, -c, s)[k % 4] for k in range(order + 1)]


def exp_derivatives(u: Tensor, order: int) -> list[Tensor]:
    return [torch.exp(u)] * (order + 1)


def log_derivatives(u: Tensor, order: int) -> list[Tensor]:
    return [torch.log(u), *_power_derivatives(u, -1, order - 1)] if order else [torch.log(u)]


def sqrt_derivatives(u: Tensor, order: int) -> list[Tensor]:
    return _power_derivatives(u, 0.5, order)


def _erf_slopes(u: Tensor, order: int) -> list[Tensor]:
    """erf', erf'' ... at u: 2 / sqrt(pi) exp(-u^2) times Hermite polynomials with signs that alternate."""
    density = 2.0 / math.sqrt(math.pi) * torch.exp(-u.square())
    hermite = [torch.ones_like(u), -2.0 * u]
    for k in range(1, order - 1):
        hermite.append(-2.0 * (u * hermite[k] + k * hermite[k - 1]))
    return [h * density for h in hermite[:order]]


def erf_derivatives(u: Tensor, order: int) -> list[Tensor]:
    return [torch.erf(u), *_erf_slopes(u, order)]


def erfc_derivatives(u: Tensor, order: int) -> list[Tensor]:
    """Of 1 - erf u, without its cancellation at large u."""
    return [torch.erfc(u), *(-slope for slope in _erf_slopes(u, order))]


FUNCTIONS: dict[str, Callable[[Tensor, int], list[Tensor]]] = {
    "sin": sin_derivatives,
    "cos": cos_derivatives,
    "exp": exp_derivatives,
    "log": log_derivatives,
    "sqrt": sqrt_derivatives,
    "tanh": tanh_derivatives,
    "erf": erf_derivatives,
    "erfc": erfc_derivatives,
}


def _function(name: str) -> Callable:
    def apply(u):
        return u.apply(FUNCTIONS[name]) if isinstance(u, Jet) else getattr(torch, name)(u)

    apply.__name__ = name
    apply.__doc__ = f"{name}(u) of a jet or of a tensor."
    return apply


sin, cos, exp, log, sqrt, tanh, erf, erfc = (
    _function(name) for name in ("sin", "cos", "exp", "log", "sqrt", "tanh", "erf", "erfc")
)
