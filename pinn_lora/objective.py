"""The loss of a problem at fixed points, with its gradient, residual vector, Jacobian and Gauss-Newton matrix.

f(theta) = sum_k w_k / N_k sum_i r_k(i)^2, one k for each residual component and condition. R stacks sqrt(w_k / N_k) r_k, so
that f = |R|^2, g = 2 J^T R and the Gauss-Newton matrix is H = 2 J^T J with J = dR/dtheta.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from pinn_lora import lower
from pinn_lora.catalog import choose
from pinn_lora.engines import FunctionalEngine, JetEngine
from pinn_lora.initializers import Probe
from pinn_lora.lora import Blocks, adapt, target_layers, unfactored
from pinn_lora.memory import room_gib
from pinn_lora.networks import Network
from pinn_lora.places import place_of
from pinn_lora.problem import Problem
from pinn_lora.products import Linearization
from pinn_lora.terms import Among, Term

Points = Mapping[str, tuple[Tensor, ...]]
SMALLEST = 16  # points, however little memory there is
CACHED = 2**20  # bytes of one layer's jets (S, N, width) that go through the network together, see `points_together`
FEWEST, MOST = 512, 1024  # points, the most twice that in float32: with fewer calls take long, more gain little


@dataclass
class Work:
    """How often each kind of evaluation was made."""

    residuals: int = 0
    gradients: int = 0
    jacobians: int = 0
    solves: int = 0


@dataclass(frozen=True)
class Objective:
    """The loss of `problem` for the trained part of `network` at `points`, which never change.

    points: by term name ("residual", then the conditions' names) a tuple of tensors (N, d), two for a periodic condition.
    weights: w_k by the same names, 1 where not named. engine: "jets", "functional", or None for jets where the network has
    them. max_memory: GiB that a step's matrices and the points that go through the network together may take; what is free
    where not given. `running`: the engine chosen; `chunks`: its chunks of points, each with the weight of its r^2 in f.
    ValueError for a name that is no term, and a max_memory that is not positive.
    """

    problem: Problem
    network: nn.Module
    blocks: Blocks
    points: Points
    weights: Mapping[str, float] = field(default_factory=dict)
    engine: str | None = None
    compile: bool = False
    work: Work = field(default_factory=Work)
    max_memory: float | None = None
    running: Any = field(init=False, repr=False)
    chunks: list[tuple[Any, float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.problem.terms()]
        for name, weight in self.weights.items():
            choose(name, names, what="weighted term")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name} is {weight}; it must be a finite number, at least 0")
        if self.max_memory is not None and not self.max_memory > 0:
            raise ValueError(f"max_memory is {self.max_memory}; it must be a positive number of GiB")
        jets = isinstance(self.network, Network)
        kind = choose(self.engine or ("jets" if jets else "functional"), ["jets", "functional"], what="engine")
        if kind == "jets" and not jets:
            raise ValueError(
                f"engine='jets' needs a network of pinn_lora, not a {type(self.network).__name__}; use 'functional'"
            )
        if self.compile and kind != "jets":
            raise ValueError(
                "compile=True needs the engine 'jets'; leave it out for other networks than those of pinn_lora"
            )
        if kind == "jets":
            engine = JetEngine(self.problem, cast(Network, self.network), self.blocks, compile=self.compile)
        else:
            engine = FunctionalEngine(self.problem, self.network, self.blocks)
        object.__setattr__(self, "running", engine)
        object.__setattr__(self, "chunks", list(self._prepare(engine)))

    def _prepare(self, engine):
        like = next(iter(self.network.state_dict().values()))
        for name, operator, condition in self.problem.terms():
            paired = bool(condition and condition.paired)
            fixed = condition.points if condition else None
            place = condition.place if condition else place_of(operator)
            indices = self.problem.needed(operator, paired=paired, points=fixed, place=place)
            term = Term(name, operator, float(self.weights.get(name, 1.0)), indices, paired, place)
            if name not in self.points:
                raise ValueError(f"there are no points for the term {name} (points given: {', '.join(self.points)})")
            sets = [points.to(like) for points in self.points[name]]
            count = len(sets[0])
            together = points_together(len(indices), self._width, like.element_size())
            chunk = self._chunk(together, len(indices), self.max_memory)
            quarter = -(-chunk // 4)
            lengths = [n * quarter for n in quarters(-(-count // quarter))]
            if fixed is not None:  # the operator stands for all points at once: no more parts than memory asks for
                size = self._chunk(count, len(indices), room_gib(like.device, self.max_memory))
                lengths = [size] * -(-count // size)
            compiled = fixed is None and count >= quarter  # fewer points are not worth the wait
            cut = [*lengths[:-1], count - sum(lengths[:-1])]
            for i, part in enumerate(zip(*(points.split(cut) for points in sets), strict=True)):
                length = lengths[i] if compiled else None
                if fixed is not None and len(cut) > 1:
                    term = replace(term, among=Among(tuple(sets), self.problem.domain.names, i * lengths[0]))
                yield engine.prepare(term, part, length), term.weight / count

    def _chunk(self, most: int, derivatives: int, room: float | None) -> int:
        """How many points go through the network together: `most`, halved until their Jacobian, in the network's type and in
        float64, and their jets (some six tensors a layer) take at most a quarter of `room` GiB. A part may have a quarter more,
        see `quarters`."""
        if room is None:
            return most
        while most > SMALLEST and most * self._point_gib(derivatives) > 0.25 * room:
            most = -(-most // 2)
        return most

    @property
    def _width(self) -> int:
        """Units of the widest layer."""
        return max((max(value.shape) for value in self.network.state_dict().values() if value.ndim == 2), default=1)

    def _point_gib(self, derivatives: int) -> float:
        units = sum(len(value) for value in self.network.state_dict().values() if value.ndim == 2)
        return 8 * (2 * len(self.problem.fields) * self.size + 6 * derivatives * units) / 2**30

    @cached_property
    def chunk_gib(self) -> float:
        """The most that points going through the network together take, see `_chunk`: what a step holds beside its solver's."""
        return max(chunk.count * self._point_gib(len(chunk.term.indices)) for chunk, _ in self.chunks)

    def with_points(self, points: Points) -> Objective:
        """The same loss at other points, counting its work in the same place."""
        return replace(self, points=points)

    def unfactored(self) -> Objective:
        """The same loss, the adapted layers' weights trained themselves; it counts its work in the same place."""
        network = unfactored(self.network)
        return replace(self, network=network, blocks=Blocks(network))

    @property
    def size(self) -> int:
        """The number of unknowns P."""
        return self.blocks.size

    @cached_property
    def rows(self) -> int:
        """The number of residuals N: every component of every term at all of its points."""
        bound, components = self.running.bind(self.blocks.read(self.network)), {}
        for chunk, _ in self.chunks:
            name = chunk.term.name
            if name not in components:
                components[name] = len(self.running.residuals(bound, chunk))
        return sum(count * len(self.points[name][0]) for name, count in components.items())

    def term_norms(self, theta: Tensor) -> dict[str, float]:
        """Root mean square of every term's residual at the points."""
        self.work.residuals += 1
        bound, totals, counts = self.running.bind(theta), {}, {}
        for chunk, _ in self.chunks:
            name = chunk.term.name
            for r in self.running.residuals(bound, chunk):
                totals[name] = totals.get(name, 0.0) + float(r.double().square().sum())
                counts[name] = counts.get(name, 0) + len(r)
        return {name: math.sqrt(total / counts[name]) for name, total in totals.items()}

    def term_traces(self, theta: Tensor) -> dict[str, float]:
        """tr K_k = sum |J_k|^2 / N_k of every term k, J_k (N_k, P) the Jacobian of its residuals, without its weight."""
        self.work.jacobians += 1
        bound, found = self.running.bind(theta), {}
        for chunk, _ in self.chunks:
            name, (_, J) = chunk.term.name, self.running.jacobian(bound, chunk)
            found[name] = found.get(name, 0.0) + float(J.double().square().sum()) / len(self.points[name][0])
        return found

    def value(self, theta: Tensor) -> float:
        """f(theta)."""
        self.work.residuals += 1
        bound = self.running.bind(theta)
        parts = [
            scale * r.double().square().sum()
            for chunk, scale in self.chunks
            for r in self.running.residuals(bound, chunk)
        ]
        return float(torch.stack(parts).sum())

    def residuals(self, theta: Tensor) -> Tensor:
        """R (N,)."""
        self.work.residuals += 1
        bound = self.running.bind(theta)
        return torch.cat(
            [math.sqrt(scale) * r for chunk, scale in self.chunks for r in self.running.residuals(bound, chunk)]
        )

    def pointwise(self, theta: Tensor) -> Tensor:
        """Sum over components of |r| at each interior point, in their order: what residual-adaptive sampling asks for."""
        self.work.residuals += 1
        bound = self.running.bind(theta)
        inside = [chunk for chunk, _ in self.chunks if chunk.term.name == "residual"]
        parts = [torch.stack(self.running.residuals(bound, chunk)) for chunk in inside]
        return torch.cat([r.abs().sum(0) for r in parts])

    def gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """f(theta) and g (P,)."""
        self.work.gradients += 1
        bound, g = self.running.bind(theta), torch.zeros_like(theta)
        parts = [self.running.gradient(bound, chunk, scale, g) for chunk, scale in self.chunks]
        return float(sum(parts[1:], parts[0])), g

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """R (N,) and J (N, P), float64; in memory (P, N), as its parts are made."""
        self.work.jacobians += 1
        R = torch.empty(self.rows, dtype=torch.float64, device=theta.device)
        columns, at = R.new_empty(self.size, self.rows), 0
        for r, J, weight in self._jacobian_parts(theta):
            place = slice(at, at := at + len(r))
            torch.mul(r, math.sqrt(weight), out=R[place])
            torch.mul(J.T, math.sqrt(weight), out=columns[:, place])
        return R, columns.T

    def jacobian_rows(self, theta: Tensor) -> Iterator[Tensor]:
        """J by rows (n, P) in the order of R, float64: never whole in memory."""
        self.work.jacobians += 1
        for _, J, weight in self._jacobian_parts(theta):
            yield math.sqrt(weight) * J

    def gauss_newton(self, theta: Tensor) -> tuple[float, Tensor, Tensor]:
        """f, g (P,) and H = 2 J^T J (P, P) in float64, accumulated over chunks so that J is never whole in memory."""
        R, g, H = self.normal(theta)
        lower.mirror(H)
        return float(R @ R), g, H

    def normal(self, theta: Tensor, kept: list[tuple[Tensor, float]] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """R (N,), g (P,) and H = 2 J^T J (P, P), as `gauss_newton` but on and below the diagonal alone. `kept` is given the
        parts of J (n, P) in the order of R, each before the factor sqrt(w_k / N_k) that stands beside it."""
        self.work.jacobians += 1
        size, device, found = self.size, theta.device, []
        g = torch.zeros(size, dtype=torch.float64, device=device)
        H = torch.zeros(size, size, dtype=torch.float64, device=device)
        for r, J, weight in self._jacobian_parts(theta):
            found.append(math.sqrt(weight) * r)
            g.addmv_(J.T, r, alpha=2.0 * weight)
            lower.add_products(H, J, 2.0 * weight)
            if kept is not None:
                kept.append((J, math.sqrt(weight)))
        return torch.cat(found), g, H

    def pullback(self, theta: Tensor, u: Tensor) -> Tensor:
        """J^T u (P,) in float64 for u (N,), at the cost of a gradient."""
        self.work.gradients += 1
        bound, found, at = self.running.bind(theta), torch.zeros_like(theta), 0
        for chunk, weight in self.chunks:
            at += self.running.pullback(bound, chunk, math.sqrt(weight) * u[at:], found)
        return found.double()

    def linearize(self, theta: Tensor, *, room: float) -> Linearization:
        """R and the products with J at theta, without J; what they need is kept where it fits into `room` GiB."""
        self.work.jacobians += 1
        engine, bound = self.running, self.running.bind(theta)
        makes = [lambda chunk=chunk: engine.products(bound, chunk) for chunk, _ in self.chunks]
        return Linearization(makes, [weight for _, weight in self.chunks], self.size, room=room)

    def sketch(self, theta: Tensor, directions: Tensor) -> Tensor:
        """2 J^T J Omega (P, l) in float64 for directions Omega (P, l), accumulated over chunks."""
        self.work.jacobians += 1
        found = torch.zeros_like(directions)
        for _, J, weight in self._jacobian_parts(theta):
            found.addmm_(J.T, J @ directions, alpha=2.0 * weight)
        return found

    def _jacobian_parts(self, theta: Tensor):
        """Of each component of each chunk r (n,), dr/dtheta (n, P) and the weight of r^2 in f; all in float64."""
        bound = self.running.bind(theta)
        for chunk, weight in self.chunks:
            for r, J in zip(*self.running.jacobian(bound, chunk), strict=True):
                yield r.double(), J.double(), weight


def points_together(derivatives: int, width: int, size: int) -> int:
    """How many points go through the network together: those whose jets of one layer, numbers of `size` bytes, take 1 MiB.

    What a layer reads and what it makes are then 2 MiB, a second-level cache of these days. At widths from 24 to 128, in both
    types, most cases were quickest so. A multiple of 128: a quarter of it is compiled, too.
    """
    return min(MOST * 8 // size, max(FEWEST, CACHED // (derivatives * width * size) // 128 * 128))


def quarters(count: int) -> list[int]:
    """Parts that make `count` quarters of a chunk, 5 or 4 each so that no short one is left, else 4 each and 1, 2 or 4 in the
    end: few lengths, since each is compiled, and less than one chunk's quarter of padding where 5 and 4 do."""
    whole, rest = divmod(count, 4)
    if rest <= whole:
        return [5] * rest + [4] * (whole - rest)
    return [4] * whole + [4 if rest == 3 else rest]


def probe(
    problem: Problem,
    network: nn.Module,
    points: Points,
    *,
    targets: str | Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Probe]:
    """Gradient and Jacobian of the loss in the weights of the target layers at the base, by layer name: what a start that
    needs the gradient is given, from one batch of points."""
    layers = target_layers(network, targets)
    dense = unfactored(adapt(network, rank=1, targets=targets))  # trains the targets' own weights and nothing else
    blocks = Blocks(dense)
    R, J = Objective(problem, dense, blocks, points, weights or {}).jacobian(blocks.read(dense))
    found = {}
    for block in blocks.blocks:
        name = block.name.removesuffix(".weight")
        if name in layers:
            rows = J[:, block.slice].reshape(len(J), *block.shapes[0]).cpu()
            found[name] = Probe(2.0 * torch.einsum("i,ikj->kj", R.cpu(), rows), rows)
    return found
