"""Two ways to the residuals and their derivatives in theta at fixed points: jets with a hand-derived adjoint for our own
networks, and torch.func for any other `nn.Module`. Both give the same numbers; tests hold them to it.

Each prepares a chunk of points once, and then gives, for a theta, the residual components, the gradient of
sum_k w_k sum r_k^2, and the per-sample Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from pinn_lora.jets import Indices, Jet
from pinn_lora.lora import Blocks, PairBlock
from pinn_lora.network import MLP, Layer, adjoint_jets, forward_jets
from pinn_lora.problem import Coordinates, Field, Problem, components


@dataclass(frozen=True)
class Term:
    """One residual or condition: f gets weight / N sum_i r_k(i)^2 for each component k of `operator`."""

    name: str
    operator: Callable
    weight: float
    indices: Indices
    paired: bool

    def run(self, sets: Sequence[tuple[Coordinates, Sequence[Field]]]) -> list[Tensor]:
        """The components (N,), from coordinates and fields at one point set, or at two where `paired`."""
        if self.paired:
            return list(components(self.operator(*((p, *u) for p, u in sets))))
        p, u = sets[0]
        return list(components(self.operator(p, *u)))


@dataclass(frozen=True)
class JetChunk:
    """Points with their coordinate jets, one entry a point set, and all sets' feature jets side by side."""

    term: Term
    coordinates: tuple[Coordinates, ...]
    jets: tuple[list[Jet], ...]
    features: Tensor


@dataclass(frozen=True)
class LayerPlan:
    """What is trained of one layer: keys of its weight or factors and of its bias, with their places in theta."""

    pair: PairBlock | None
    weight: slice | None
    bias: slice | None

    @property
    def trained(self) -> bool:
        return self.pair is not None or self.weight is not None or self.bias is not None


class Bound(NamedTuple):
    """theta and the layers it makes."""

    theta: Tensor
    layers: list[Layer]


class JetEngine:
    """Jets through an MLP and its adjoint; autograd only sees the residual as a function of the network's output jets."""

    def __init__(self, problem: Problem, network: MLP, blocks: Blocks) -> None:
        self.problem, self.network, self.blocks = problem, network, blocks
        places = {block.name: block for block in blocks.blocks}
        self.plan = []
        for i in range(len(network.layers)):
            pair, weight, bias = (places.get(f"layers.{i}{end}") for end in ("", ".weight", ".bias"))
            self.plan.append(
                LayerPlan(
                    pair if isinstance(pair, PairBlock) else None,
                    weight.slice if weight else None,
                    bias.slice if bias else None,
                )
            )
        self.lowest = next(i for i, layer in enumerate(self.plan) if layer.trained)

    def prepare(self, term: Term, points: Sequence[Tensor]) -> JetChunk:
        names, d = self.problem.domain.names, self.problem.domain.dimension
        jets = [[Jet.coordinate(p, i, term.indices) for i in range(d)] for p in points]
        features = torch.cat([self.network.feature_jets(j) for j in jets], dim=1)
        return JetChunk(term, tuple(Coordinates(p.unbind(1), names) for p in points), tuple(jets), features)

    def bind(self, theta: Tensor) -> Bound:
        """The layers with theta in them; made once for all chunks."""
        return Bound(theta, self.network.effective_layers(self.blocks.parameters(theta)))

    def _components(self, chunk: JetChunk, outputs: Tensor) -> list[Tensor]:
        parts = outputs.chunk(len(chunk.jets), dim=1)
        solve, indices = self.problem.solution_jets, chunk.term.indices
        fields = [solve(jets, part, indices) for jets, part in zip(chunk.jets, parts, strict=True)]
        return chunk.term.run(list(zip(chunk.coordinates, fields, strict=True)))

    def residuals(self, bound: Bound, chunk: JetChunk) -> list[Tensor]:
        with torch.no_grad():
            outputs, _, _ = forward_jets(bound.layers, chunk.features, chunk.term.indices, self.network.activation)
            return self._components(chunk, outputs)

    def _forward(self, bound: Bound, chunk: JetChunk):
        with torch.no_grad():
            outputs, inputs, tapes = forward_jets(
                bound.layers, chunk.features, chunk.term.indices, self.network.activation
            )
        outputs.requires_grad_()
        with torch.enable_grad():
            found = self._components(chunk, outputs)
        return outputs, inputs, tapes, found

    def gradient(self, bound: Bound, chunk: JetChunk, scale: float, out: Tensor) -> Tensor:
        """scale * sum over components and points of r^2; its gradient is added to `out` (P,)."""
        outputs, inputs, tapes, found = self._forward(bound, chunk)
        with torch.enable_grad():
            value = scale * sum(r.square().sum() for r in found)
        (seed,) = torch.autograd.grad(value, outputs)
        with torch.no_grad():
            adjoints = adjoint_jets(bound.layers, tapes, seed, chunk.term.indices, self.lowest)
            for i, D in enumerate(adjoints, start=self.lowest):
                self._add_gradient(self.plan[i], bound.theta, D, inputs[i], out)
        return value.detach()

    def _add_gradient(self, plan: LayerPlan, theta: Tensor, D: Tensor, H: Tensor, out: Tensor) -> None:
        """Adds sum_si D_si H_si^T and its products with the factors. Thin products are written with their short side
        first, which runs several times faster than the transpose."""
        D2, H2 = D.reshape(-1, D.shape[-1]), H.reshape(-1, H.shape[-1])
        if plan.pair is not None:
            (B, A), (gB, gA) = (plan.pair.split(v[plan.pair.slice]) for v in (theta, out))
            gB.add_(((A @ H2.T) @ D2).T, alpha=plan.pair.scale)
            gA.addmm_(B.T @ D2.T, H2, alpha=plan.pair.scale)
        if plan.weight is not None:
            G = out[plan.weight].view(D.shape[-1], H.shape[-1])
            if H.shape[-1] < D.shape[-1]:
                G.add_((H2.T @ D2).T)
            else:
                G.addmm_(D2.T, H2)
        if plan.bias is not None:
            out[plan.bias] += D[0].sum(0)

    def jacobian(self, bound: Bound, chunk: JetChunk) -> tuple[Tensor, Tensor]:
        """The components (C, N) and their Jacobian (C, N, P)."""
        outputs, inputs, tapes, found = self._forward(bound, chunk)
        sets, n = len(chunk.jets), len(found[0])
        J = outputs.new_zeros(len(found), n, self.blocks.size)
        for c, r in enumerate(found):
            (seed,) = torch.autograd.grad(r.sum(), outputs, retain_graph=True)
            with torch.no_grad():
                adjoints = adjoint_jets(bound.layers, tapes, seed, chunk.term.indices, self.lowest)
                for i, D in enumerate(adjoints, start=self.lowest):
                    for k in range(sets):
                        part = slice(k * n, (k + 1) * n)
                        self._add_rows(self.plan[i], bound.theta, D[:, part], inputs[i][:, part], J[c])
        return torch.stack(found).detach(), J

    def _add_rows(self, plan: LayerPlan, theta: Tensor, D: Tensor, H: Tensor, rows: Tensor) -> None:
        """Adds dr_i/d(block) = sum_s D_si H_si^T and its products with the factors to the rows (N, P)."""
        n, left = len(rows), D.permute(1, 2, 0)
        if plan.pair is not None:
            B, A = plan.pair.split(theta[plan.pair.slice])
            at, s = plan.pair.start, plan.pair.scale
            dB = torch.bmm(left, (H @ A.T).permute(1, 0, 2))
            dA = torch.bmm((D @ B).permute(1, 2, 0), H.permute(1, 0, 2))
            rows[:, at : at + B.numel()].add_(dB.view(n, -1), alpha=s)
            rows[:, at + B.numel() : at + plan.pair.size].add_(dA.view(n, -1), alpha=s)
        if plan.weight is not None:
            rows[:, plan.weight] += torch.bmm(left, H.permute(1, 0, 2)).view(n, -1)
        if plan.bias is not None:
            rows[:, plan.bias] += D[0]


@dataclass(frozen=True)
class FunctionalChunk:
    """Points, one tensor (N, d) a point set."""

    term: Term
    points: tuple[Tensor, ...]


class FunctionalEngine:
    """Any network that maps points (N, d) to outputs (N, fields) point by point, through torch.func: nested forward mode
    for the derivatives in the coordinates of the whole solution, reverse mode for those in theta."""

    def __init__(self, problem: Problem, network: nn.Module, blocks: Blocks) -> None:
        self.problem, self.network, self.blocks = problem, network, blocks

    def prepare(self, term: Term, points: Sequence[Tensor]) -> FunctionalChunk:
        return FunctionalChunk(term, tuple(points))

    def bind(self, theta: Tensor) -> Tensor:
        return theta

    def _fields(self, parameters: dict[str, Tensor], points: Tensor, indices: Indices) -> list[Field]:
        def value(x: Tensor) -> Tensor:
            solve = lambda inputs: functional_call(self.network, parameters, (inputs,))  # noqa: E731
            return torch.stack(self.problem.solution(x, solve), dim=-1)

        found = torch.stack([_derivative(value, index)(points) for index in indices])
        return [Field(data, indices, self.problem.domain.names) for data in found.unbind(-1)]

    def _components(self, theta: Tensor, chunk: FunctionalChunk) -> list[Tensor]:
        parameters, domain = self.blocks.parameters(theta), self.problem.domain
        sets = [(Coordinates.of(p, domain), self._fields(parameters, p, chunk.term.indices)) for p in chunk.points]
        return chunk.term.run(sets)

    def residuals(self, theta: Tensor, chunk: FunctionalChunk) -> list[Tensor]:
        with torch.no_grad():
            return self._components(theta, chunk)

    def gradient(self, theta: Tensor, chunk: FunctionalChunk, scale: float, out: Tensor) -> Tensor:
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            value = scale * sum(r.square().sum() for r in self._components(theta, chunk))
            out += torch.autograd.grad(value, theta)[0]
        return value.detach()

    def jacobian(self, theta: Tensor, chunk: FunctionalChunk) -> tuple[Tensor, Tensor]:
        def one(theta: Tensor, *points: Tensor) -> Tensor:
            sets = FunctionalChunk(chunk.term, tuple(p.unsqueeze(0) for p in points))
            return torch.stack([r[0] for r in self._components(theta, sets)])

        dims = (None, *(0 for _ in chunk.points))
        J = torch.func.vmap(torch.func.jacrev(one), in_dims=dims)(theta, *chunk.points)
        return torch.stack(self.residuals(theta, chunk)), J.transpose(0, 1).detach()


def _derivative(value: Callable[[Tensor], Tensor], index: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """The derivative of a pointwise function of (N, d) named by an index, one forward-mode pass an order."""
    for number in index:
        value = _along(value, number)
    return value


def _along(value: Callable[[Tensor], Tensor], number: int) -> Callable[[Tensor], Tensor]:
    def derived(x: Tensor) -> Tensor:
        direction = torch.zeros_like(x)
        direction[:, number] = 1.0
        return jvp(value, (x,), (direction,))[1]

    return derived
