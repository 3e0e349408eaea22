"""Two ways to the residuals and their derivatives in theta at fixed points: jets with a hand-derived adjoint for our own
networks, and torch.func for any other `nn.Module`. Both give the same numbers; tests hold them to it.

Each prepares a chunk of points once, and then gives, for a theta, the residual components, the gradient of
sum_k w_k sum r_k^2, and the per-sample Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from pinn_lora.compiling import can_compile, run_foreign
from pinn_lora.fields import Coordinates, Field
from pinn_lora.identity import identified
from pinn_lora.jets import Index, Indices, summed
from pinn_lora.layer_jacobians import fill_alpha, fill_layer
from pinn_lora.lora import Blocks, DenseBlock
from pinn_lora.networks import Network
from pinn_lora.passes import Bound, LayerPlan, Passes
from pinn_lora.places import naming
from pinn_lora.problem import Problem
from pinn_lora.products import FunctionalProducts, JetProducts
from pinn_lora.program import units_first
from pinn_lora.terms import PlacedTerm, Term, output_adjoint, squares_of


class Squares(NamedTuple):
    """The compiled function of `squares_of`, and what it is given: the points (N, d), with copies of the last one, and 1 at the
    real ones, 0 at the copies."""

    function: Callable[..., list[Tensor]]
    points: Tensor
    real: Tensor


@dataclass(frozen=True)
class JetChunk:
    """A term at some points, with all sets' feature jets side by side.

    `passes` run on `features`, which may end in copies of the last point: compiled passes want one length.
    """

    at: PlacedTerm
    features: Tensor
    passes: Passes
    squares: Squares | None = None  # where they are compiled

    @property
    def term(self) -> Term:
        return self.at.term

    @property
    def count(self) -> int:
        """The real points of all sets together."""
        return self.at.count


class JetEngine:
    """Jets through a network and its adjoint; autograd only sees the residual as a function of the network's output jets."""

    def __init__(self, problem: Problem, network: Network, blocks: Blocks, *, compile: bool = False) -> None:
        self.problem, self.network, self.blocks, self.compile = problem, network, blocks, compile
        places: dict[str, Any] = {block.name: block for block in blocks.blocks}
        plan = []
        for i in range(len(network.layers)):
            pair, weight, V, s, bias = (places.get(f"layers.{i}{end}") for end in ("", ".weight", ".V", ".s", ".bias"))
            plan.append(LayerPlan(pair, V if weight is None else weight, s, bias))
        self.plan: tuple[LayerPlan, ...] = tuple(plan)
        self.alpha: DenseBlock | None = places.get("alpha")
        found = [block for layer in plan for block in layer.blocks] + ([] if self.alpha is None else [self.alpha])
        if sum(block.size for block in found) != blocks.size:
            raise ValueError("this network trains more than its layers, which jets do not see; use engine='functional'")
        # the gradients come layer by layer, a bias last, then alpha's; theta has them in its own order
        starts = [block.start + k for block in found for k in range(len(block.shapes))]
        self.order = sorted(range(len(starts)), key=starts.__getitem__)
        # glibc hands freed memory back, page by page, above a limit that grows with the largest piece freed; without
        # this every chunk would fault its pages in again
        torch.empty(31 << 20, dtype=torch.uint8, device="cpu")

    def prepare(self, term: Term, points: Sequence[Tensor], length: int | None = None) -> JetChunk:
        """A chunk; compiled, with each point set padded to `length`, where that is given and compiling was asked for."""
        at = PlacedTerm.at(self.problem, term, points)
        features = self._side_by_side([self.network.feature_jets(jets) for jets in at.jets])
        passes = Passes(term.indices, self.network.steps, self.network.activation, self.plan, self.alpha)
        if length is None or not (self.compile and can_compile()):
            return JetChunk(at, features, passes)
        missing = len(points) * length - features.shape[1]
        features = self._side_by_side([features, features[:, -1:].expand(-1, missing, -1)])
        return JetChunk(at, features, passes.compiled(), self._compiled_squares(term, points, missing))

    def _compiled_squares(self, term: Term, points: Sequence[Tensor], missing: int) -> Squares | None:
        """None for a term that sees two point sets, and for a problem that cannot be told from another."""
        known = None if term.paired else identified(self.problem)
        if known is None:
            return None
        function, x = squares_of(known, term.name, term.indices, term.place), points[0]
        real = torch.cat([x.new_ones(len(x)), x.new_zeros(missing)])
        return Squares(function, torch.cat([x, x[-1:].expand(missing, -1)]), real)

    @staticmethod
    def _side_by_side(features: Sequence[Tensor]) -> Tensor:
        if units_first(features[0].dtype):
            return torch.cat([f.permute(2, 0, 1) for f in features], dim=2).permute(1, 2, 0)
        return torch.cat(list(features), dim=1)

    def bind(self, theta: Tensor) -> Bound:
        """The layers with theta in them; made once for all chunks."""
        parameters = self.blocks.parameters(theta)
        layers, factors = self.network.effective_layers(parameters), []
        for plan, layer in zip(self.plan, layers, strict=True):
            if plan.pair is not None:
                factors.append(tuple(parameters[key] for key in plan.pair.keys))
            else:
                factors.append(() if plan.s is None else (parameters[plan.s.keys[0]].exp(), layer.weight))
        return Bound(layers, parameters.get("alpha", self.network.alpha), factors)

    def residuals(self, bound: Bound, chunk: JetChunk) -> list[Tensor]:
        with torch.no_grad():
            outputs, _ = chunk.passes.forward(bound, chunk.features)
            return chunk.at.components(outputs[:, : chunk.count])

    def _forward(self, bound: Bound, chunk: JetChunk):
        with torch.no_grad():
            outputs, record = chunk.passes.forward(bound, chunk.features)
        outputs = outputs[:, : chunk.count].detach().requires_grad_()
        with torch.enable_grad():
            found = chunk.at.components(outputs)
        return outputs, record, found

    @staticmethod
    def _adjoint(
        chunk: JetChunk, found: Sequence[Tensor], outputs: Tensor, weights: Sequence[Tensor], keep: bool = False
    ):
        """The adjoint of the outputs at all points of the features, for weights on the components."""
        return _with_copies(chunk, output_adjoint(found, outputs, weights, keep=keep))

    def gradient(self, bound: Bound, chunk: JetChunk, scale: float, out: Tensor) -> Tensor:
        """scale * sum over components and points of r^2; its gradient is added to `out` (P,)."""
        with torch.no_grad():
            outputs, record = chunk.passes.forward(bound, chunk.features)
            if chunk.squares is None:
                total, seed = chunk.at.squares(outputs[:, : chunk.count], scale)
                seed = _with_copies(chunk, seed)
            else:
                function, points, real = chunk.squares
                name = f"{type(self.problem).__name__}'s term {chunk.term.name}"
                total, seed = run_foreign(function, [outputs.contiguous(), scale * real, points], name=name)
            gradients = chunk.passes.gradients(bound, record, seed)
            out += torch.cat([gradients[i].reshape(-1) for i in self.order])
        return total

    def jacobian(self, bound: Bound, chunk: JetChunk) -> tuple[Tensor, Tensor]:
        """The components (C, N) and their Jacobian (C, N, P), in memory (C, P, N)."""
        outputs, record, found = self._forward(bound, chunk)
        n, passes, real = len(found[0]), chunk.passes, slice(0, chunk.count)  # without the copies at the end
        J = outputs.new_empty(len(found), self.blocks.size, n)
        for c, r in enumerate(found):
            seed = self._adjoint(chunk, [r], outputs, [torch.ones_like(r)], keep=True)
            with torch.no_grad():
                adjoints = passes.adjoints(bound, record, seed)
                for i in passes.trained:
                    D, H = adjoints.layers[i], record.values[passes.inputs[i]]
                    fill_layer(self.plan[i], bound.factors[i], D[:, real], H[:, real], J[c])
                if self.alpha is not None:
                    rows = [adjoints.connections[k][real] for k in sorted(adjoints.connections)]
                    fill_alpha(self.alpha, rows, J[c])
        return torch.stack(found).detach(), J.transpose(1, 2)

    def pullback(self, bound: Bound, chunk: JetChunk, u: Tensor, out: Tensor) -> int:
        """Adds J^T u to `out` (P,) for the first C N entries of u, and says how many these are."""
        outputs, record, found = self._forward(bound, chunk)
        own = u[: len(found) * len(found[0])].view(len(found), -1)
        seed = self._adjoint(chunk, found, outputs, list(own.to(outputs)))
        with torch.no_grad():
            gradients = chunk.passes.gradients(bound, record, seed)
            out += torch.cat([gradients[i].reshape(-1) for i in self.order])
        return own.numel()

    def products(self, bound: Bound, chunk: JetChunk) -> JetProducts:
        """The components and the products with their Jacobian, from one forward pass and an adjoint of each component."""
        outputs, record, found = self._forward(bound, chunk)
        real, passes, adjoints, slopes = slice(0, chunk.count), chunk.passes, [], []
        for r in found:
            seed = self._adjoint(chunk, [r], outputs, [torch.ones_like(r)], keep=True)
            with torch.no_grad():
                back = passes.adjoints(bound, record, seed)
            adjoints.append([back.layers[i][:, real] for i in passes.trained])
            if self.alpha is not None:
                slopes.append(torch.stack([back.connections[k][real] for k in sorted(back.connections)]))
        inputs = [record.values[passes.inputs[i]][:, real] for i in passes.trained]
        layers = [(self.plan[i], bound.factors[i]) for i in passes.trained]
        return JetProducts(torch.stack(found).detach(), layers, inputs, adjoints, self.alpha, slopes)


def _with_copies(chunk: JetChunk, seed: Tensor) -> Tensor:
    """With zeros at the copies that the features end in."""
    return torch.nn.functional.pad(seed, (0, 0, 0, chunk.features.shape[1] - chunk.count))


@dataclass(frozen=True)
class FunctionalChunk:
    """Points, one tensor (N, d) a point set."""

    term: Term
    points: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        """The points of all sets together."""
        return sum(len(points) for points in self.points)


class FunctionalEngine:
    """Any network that maps points (N, d) to outputs (N, fields) point by point, through torch.func: nested forward mode
    for the derivatives in the coordinates of the whole solution, reverse mode for those in theta."""

    def __init__(self, problem: Problem, network: nn.Module, blocks: Blocks) -> None:
        self.problem, self.network, self.blocks = problem, network, blocks

    def prepare(self, term: Term, points: Sequence[Tensor], length: int | None = None) -> FunctionalChunk:
        return FunctionalChunk(term, tuple(points))

    def bind(self, theta: Tensor) -> Tensor:
        return theta

    def _values(self, theta: Tensor, points: Tensor, indices: Indices) -> Tensor:
        """The fields with their derivatives (S, N, fields)."""
        parameters = self.blocks.parameters(theta)

        def value(x: Tensor) -> Tensor:
            solve = lambda inputs: functional_call(self.network, parameters, (inputs,))  # noqa: E731
            return torch.stack(self.problem.solution(x, solve), dim=-1)

        return torch.stack([_derivative(value, index)(points) for index in indices])

    def _run(self, chunk: FunctionalChunk, values: Sequence[Tensor]) -> list[Tensor]:
        domain, indices = self.problem.domain, chunk.term.indices
        sets = [
            (Coordinates.of(p, domain), [Field(data, indices, domain.names) for data in found.unbind(-1)])
            for p, found in zip(chunk.points, values, strict=True)
        ]
        with naming(self.problem, chunk.term.place):
            return chunk.term.run(sets)

    def _components(self, theta: Tensor, chunk: FunctionalChunk) -> list[Tensor]:
        return self._run(chunk, [self._values(theta, p, chunk.term.indices) for p in chunk.points])

    def residuals(self, theta: Tensor, chunk: FunctionalChunk) -> list[Tensor]:
        with torch.no_grad():
            return self._components(theta, chunk)

    def gradient(self, theta: Tensor, chunk: FunctionalChunk, scale: float, out: Tensor) -> Tensor:
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            value = scale * torch.stack(self._components(theta, chunk)).square().sum()
            if value.requires_grad:  # else no component sees the network
                out += torch.autograd.grad(value, theta)[0]
        return value.detach()

    def jacobian(self, theta: Tensor, chunk: FunctionalChunk) -> tuple[Tensor, Tensor]:
        """r_i sees theta through the values Y_i at its own points alone: dr_i/dtheta = dr_i/dY_i dY_i/dtheta, so that the
        term itself is run once, on all points, and need not be one that torch.func can transform."""
        indices = chunk.term.indices
        found, slopes = self._slopes(theta, chunk)

        def one(theta: Tensor, points: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> Tensor:
            see = lambda theta: tuple(self._values(theta, p[None], indices)[:, 0] for p in points)  # noqa: E731
            pull = torch.func.vjp(see, theta)[1]
            return torch.func.vmap(lambda *c: pull(c)[0])(*slopes)

        J = torch.func.vmap(one, in_dims=(None, 0, 0))(theta, tuple(chunk.points), tuple(slopes))
        return found, J.transpose(0, 1).detach()

    def _slopes(self, theta: Tensor, chunk: FunctionalChunk) -> tuple[Tensor, list[Tensor]]:
        """The components (C, N) and, of every point set, dr_i/dY_i (N, C, S, fields)."""
        with torch.no_grad():
            values = [self._values(theta, p, chunk.term.indices) for p in chunk.points]
        values = [v.detach().requires_grad_() for v in values]
        with torch.enable_grad():
            found = self._run(chunk, values)
        slopes = [torch.stack([_slope(r, v) for r in found]).permute(2, 0, 1, 3) for v in values]
        return torch.stack(found).detach(), slopes

    def pullback(self, theta: Tensor, chunk: FunctionalChunk, u: Tensor, out: Tensor) -> int:
        """Adds J^T u to `out` (P,) for the first C N entries of u, and says how many these are."""
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            found = torch.stack(self._components(theta, chunk))
            own = u[: found.numel()].view(found.shape).to(found)
            if found.requires_grad:  # else no component sees the network
                out += torch.autograd.grad(found, theta, own)[0]
        return own.numel()

    def products(self, theta: Tensor, chunk: FunctionalChunk) -> FunctionalProducts:
        """The components and the products with their Jacobian, from one run of the term."""
        found, slopes = self._slopes(theta, chunk)
        values = [lambda theta, p=p: self._values(theta, p, chunk.term.indices) for p in chunk.points]
        return FunctionalProducts(found, theta, values, [s.permute(1, 2, 0, 3) for s in slopes])


def _slope(r: Tensor, values: Tensor) -> Tensor:
    """dr_i/dY_i (S, N, fields) of r (N,)."""
    if not r.requires_grad:  # it does not see the network
        return torch.zeros_like(values)
    (found,) = torch.autograd.grad(r.sum(), values, retain_graph=True, allow_unused=True)
    return torch.zeros_like(values) if found is None else found


def _derivative(value: Callable[[Tensor], Tensor], index: Index) -> Callable[[Tensor], Tensor]:
    """The derivative of a pointwise function of (N, d) named by an index, one forward-mode pass an order."""

    def one(part: Index) -> Callable[[Tensor], Tensor]:
        return reduce(_along, part, value)

    parts = [one(part) for part in summed(index)]
    return parts[0] if len(parts) == 1 else lambda x: sum((part(x) for part in parts[1:]), start=parts[0](x))


def _along(value: Callable[[Tensor], Tensor], number: int) -> Callable[[Tensor], Tensor]:
    def derived(x: Tensor) -> Tensor:
        direction = torch.zeros_like(x)
        direction[:, number] = 1.0
        return jvp(value, (x,), (direction,))[1]

    return derived
