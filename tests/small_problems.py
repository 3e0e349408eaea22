"""Small problems of every kind of term, and small networks with what may be trained of them."""

from dataclasses import dataclass, field

import torch
from pinn_lora.problems.burgers import Burgers
from torch import nn

import pinn_lora as pl
from pinn_lora.lora import Blocks
from pinn_lora.points import first_points
from pinn_lora.problem import Condition, Problem

BOX = pl.Domain(x=(-1.0, 1.0), t=(0.0, 0.5))


@dataclass(frozen=True)
class System(Problem):
    """Two unknowns, mixed and third derivatives, tuples, and an ansatz for one of them."""

    domain = BOX
    fields = ("u", "v")

    def residual(self, p, u, v):
        return u.t - v * u.xt + torch.sin(v) * p.x, v.xxx - u.x * v.t + u**2

    def conditions(self):
        return [
            pl.initial(lambda p: pl.sin(p.x)),
            pl.neumann(lambda p: p.t, on="x", field=1, side="upper"),
            pl.robin(2.0, 0.5, lambda p: 1.0, on="x", side="lower"),
        ]

    def ansatz(self, p, n, m):
        return p.t * pl.tanh(n) + pl.exp(-p.x), m / (1.0 + p.x**2)


@dataclass(frozen=True)
class HiddenField(Problem):
    """A coefficient that equality does not see: equal problems are not the same function."""

    speed: float = field(default=1.0, compare=False)
    domain = BOX

    def residual(self, p, u):
        return u.t + self.speed * u.x

    def conditions(self):
        return []


class Scaled(Burgers):
    """Extends a problem without being a dataclass: its own coefficient is no field, and its equality is that of Burgers."""

    def __init__(self, nu: float = 0.1, c: float = 1.0) -> None:
        super().__init__(nu)
        object.__setattr__(self, "c", c)

    def residual(self, p, u):
        return self.c * super().residual(p, u)


class Plain(Problem):
    """No dataclass at all."""

    domain = BOX

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed

    def residual(self, p, u):
        return u.t + self.speed * u.x


@dataclass(frozen=True)
class Streams(Problem):
    """A tensor among the fields: it has a hash, and its equality no truth value."""

    speeds: torch.Tensor
    domain = BOX

    def residual(self, p, u):
        return u.t + self.speeds.sum() * u.x


@dataclass(frozen=True, eq=False)
class Inheriting(Burgers):
    """A dataclass whose equality is that of Burgers, which does not see c."""

    c: float = 1.0

    def residual(self, p, u):
        return self.c * super().residual(p, u)


@dataclass(frozen=True)
class Lenient(Problem):
    """An equality of its own that overlooks a coefficient."""

    nu: float = 0.1
    c: float = 1.0
    domain = BOX

    def __eq__(self, other):
        return type(other) is Lenient and other.nu == self.nu

    def __hash__(self):
        return hash(self.nu)

    def residual(self, p, u):
        return u.t - self.c * self.nu * u.xx


def doubtful(c: float) -> list[Problem]:
    """Problems of a coefficient c = 1, 2, ... whose own equality says nothing of it, or fails."""
    two = torch.tensor([1.0, 1.0], dtype=torch.float64)
    return [Scaled(c=c), Plain(c), Streams(c * two), Inheriting(c=c), Lenient(c=c), HiddenField(c)]


@dataclass(frozen=True)
class Rings(Problem):
    """Soft periodic conditions, which see both ends at once."""

    domain = BOX

    def residual(self, p, u):
        return u.tt - u.xx + u**3

    def conditions(self):
        return [pl.initial(lambda p: 0.0), pl.initial(lambda p: 1.0, derivative=1), pl.periodic(on="x", derivatives=2)]


@dataclass(frozen=True)
class Measured(Problem):
    """One coordinate; known values at points of their own."""

    domain = pl.Domain(x=(0.0, 2.0))

    def residual(self, p, u):
        return u.xx + u

    def conditions(self):
        x = torch.linspace(0.0, 2.0, 11, dtype=torch.float64)
        return [pl.data(x[:, None], torch.cos(x)), pl.dirichlet(lambda p: 1.0, on="x", side="lower")]


@dataclass(frozen=True)
class Scattered(Problem):
    """Operators that stand for all of their points: with a value for each, or for each of the 21 pairs."""

    domain = BOX

    def residual(self, p, u):
        return u.t - 0.3 * u.xx

    def conditions(self):
        points, left = BOX.sample(37, seed=6), BOX.sample(21, seed=7)
        shifts = left[:, 0] ** 2

        def compare(one, other):
            (p, u), (q, v) = one, other
            return u.x * p.t - v - shifts.repeat(len(p.t) // 21).to(p.t), u - v.x * q.x

        pairs = torch.cat([left, left.flip(0)])
        return [
            pl.data(points, points.prod(1)),
            Condition("pairs", compare, points=pairs, paired=True),
            pl.dirichlet(lambda p: p.t, on="x"),
        ]

    def ansatz(self, p, n):
        return p.x * n + p.t


PROBLEMS = {
    "soft": Burgers(nu=0.05, form="soft"),
    "ansatz": Burgers(nu=0.05, form="ansatz"),
    "system": System(),
    "periodic": Rings(),
    "data": Measured(),
}


def mlp(problem: Problem, **options) -> pl.MLP:
    options = {"width": 6, "depth": 3, "periodic": problem.periodic, "seed": 2, **options}
    return pl.MLP(problem.domain, fields=len(problem.fields), **options)


ADAPTED = {
    "whole": None,
    "hidden": {"initializer": "zero_b"},
    "balanced": {"initializer": "balanced", "scale": 1.7},
    "biases_output": {"initializer": "balanced", "train_biases": True, "train_output": True},
    "all_layers": {"initializer": "balanced", "targets": "all", "rank": 1},
    "last_layer": {"initializer": "balanced", "targets": ["layers.3"], "rank": 1},
}


def trained(problem: Problem, kind: str, **options) -> nn.Module:
    network = mlp(problem, **options)
    chosen = ADAPTED[kind]
    return network if chosen is None else pl.adapt(network, **{"rank": 2, **chosen})


def somewhere(blocks: Blocks, network: nn.Module) -> torch.Tensor:
    """A theta away from the start, so that no factor is zero."""
    theta = blocks.read(network)
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return theta + 0.2 * noise.to(theta)


def objective(problem: Problem, network: nn.Module, engine: str | None = None, n: int = 70):
    """At n points inside and at most n, spread over its faces, for each condition; data have points of their own."""
    blocks, points = Blocks(network), first_points(problem, n, seed=3)
    weights = {name: 1.0 + i for i, (name, _, _) in enumerate(problem.terms())}
    for name, _, condition in problem.terms():
        if condition and condition.points is None:
            points[name] = tuple(p[:: -(-len(p) // n)] for p in points[name])
    return pl.Objective(problem, network, blocks, points, weights, engine)
