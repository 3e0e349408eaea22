"""Networks with jets: what all of them share. A file of this folder says how one is wired; nothing else knows which it is."""

from __future__ import annotations

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from pinn_lora.activations import ACTIVATIONS
from pinn_lora.catalog import check_option, choose, find, names
from pinn_lora.domain import Domain
from pinn_lora.factorised import FactorisedLinear
from pinn_lora.jets import Jet, closure, cos, sin
from pinn_lora.program import Frame, Layer, Modules, Wiring, forward_jets, units_first


class Network(nn.Module, ABC):
    """A network whose derivatives in the coordinates travel forward with its values. `depth` counts hidden layers or blocks of
    `width` units; Glorot-normal weights, zero biases, from `seed` alone. float64 by default.

    Inputs are scaled to [-1, 1] by the domain's bounds; a coordinate named in `periodic` is replaced by cos and sin of
    2 pi (x - lower) / period. fourier=m replaces what comes of that, z, by cos and sin of b.z for m frequencies
    b ~ N(0, fourier_scale^2), which are never trained (Tancik et al. 2020). factorised: every weight is trained as
    diag(exp s) V (Wang et al. 2022), until the network is adapted or merged. The linear layers are `layers.0`, `layers.1`, ...
    in the order in which `wire` asks for them, the last of them makes the outputs.
    """

    frequencies: Tensor | None
    alpha: nn.Parameter | None

    def __init__(
        self,
        domain: Domain,
        *,
        fields: int = 1,
        width: int = 24,
        depth: int = 3,
        periodic: Sequence[str] = (),
        fourier: int = 0,
        fourier_scale: float = 1.0,
        factorised: bool = False,
        activation: str = "tanh",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"a network needs width and depth of at least 1, not {width} and {depth}")
        if fourier < 0 or not (math.isfinite(fourier_scale) and fourier_scale > 0):
            raise ValueError(
                f"fourier={fourier} and fourier_scale={fourier_scale}: give a number of frequencies, 0 for none, and a "
                "positive scale"
            )
        self.domain, self.periodic = domain, tuple(periodic)
        self.width, self.depth, self.fourier, self.fourier_scale = width, depth, fourier, fourier_scale
        self.activation = choose(activation, list(ACTIVATIONS), what="activation")
        for name in self.periodic:
            domain.number(name)
        scaled = domain.dimension + len(self.periodic)
        wiring = Wiring(2 * fourier or scaled)
        wiring.linear(self.wire(wiring), fields)
        self.steps = tuple(wiring.steps)
        generator = torch.Generator().manual_seed(seed)
        layers = [_glorot(m, n, generator, dtype) for m, n in wiring.shapes]
        draw = fourier_scale * torch.randn(fourier, scaled, generator=generator, dtype=torch.float64)
        self.register_buffer("frequencies", draw.to(dtype) if fourier else None)
        self.layers = nn.ModuleList(FactorisedLinear(layer, generator) if factorised else layer for layer in layers)
        zeros = torch.zeros(wiring.connections, dtype=dtype)
        self.register_parameter("alpha", nn.Parameter(zeros) if wiring.connections else None)

    @abstractmethod
    def wire(self, wiring: Wiring) -> int:
        """Writes the steps from the features, register 0, to the register that the last, linear layer reads."""

    def describe(self) -> dict:
        """The arguments, but for seed and dtype, that build a network of this shape on the same domain."""
        return {
            "fields": self.layers[-1].out_features,
            "width": self.width,
            "depth": self.depth,
            "periodic": list(self.periodic),
            "fourier": self.fourier,
            "fourier_scale": self.fourier_scale,
            "factorised": any(isinstance(layer, FactorisedLinear) for layer in self.layers),
            "activation": self.activation,
        }

    @property
    def hidden_layers(self) -> list[str]:
        """The names of the linear layers that neither see the features nor make the outputs."""
        owners = [step for step in self.steps[:-1] if step.layer is not None]
        return [f"layers.{step.layer}" for step in owners if 0 not in step.sources]

    def features(self, coordinates: Sequence) -> list:
        """The network's inputs from the coordinates, all tensors or all jets."""
        found = []
        bounds = zip(self.domain.names, self.domain.lower, self.domain.upper, coordinates, strict=True)
        for name, lower, upper, x in bounds:
            if name in self.periodic:
                angle = (x - lower) * (2.0 * math.pi / (upper - lower))
                found += [cos(angle), sin(angle)]
            else:
                found.append((x - 0.5 * (lower + upper)) * (2.0 / (upper - lower)))
        return found if self.frequencies is None else _waves(found, self.frequencies)

    def forward(self, points: Tensor) -> Tensor:
        """Outputs (N, fields) at points (N, d)."""
        return self.registers(points)[-1]

    def registers(self, points: Tensor) -> list[Tensor]:
        """The features (N, n) at points (N, d) and what every step makes of them; the last are the outputs."""
        modules = Modules(list(self.layers), ACTIVATIONS[self.activation].function, self.alpha)
        found = [torch.stack(self.features(points.unbind(-1)), dim=-1)]
        for step in self.steps:
            found.append(step.value(modules, found))
        return found

    def feature_jets(self, coordinates: Sequence[Jet]) -> Tensor:
        """The inputs' jets (S, N, n): they depend on no trained parameter, so they are made once for a set of points."""
        rows = [jet.data for jet in self.features(coordinates)]
        if units_first(rows[0].dtype):
            return torch.stack(rows).permute(1, 2, 0)
        return torch.stack(rows, dim=-1)

    def jets(self, points: Tensor, derivatives: Sequence[tuple[int, ...]] = ()) -> Tensor:
        """The outputs' derivatives (S, N, fields) at points (N, d), in the order of `jets.closure(derivatives)`."""
        indices = closure(derivatives)
        features = self.feature_jets([Jet.coordinate(points, i, indices) for i in range(points.shape[1])])
        frame = Frame(self.effective_layers({}), self.alpha, indices, self.activation)
        with torch.no_grad():
            return forward_jets(self.steps, frame, features).values[-1]

    def effective_layers(self, parameters: dict[str, Tensor]) -> list[Layer]:
        """Every layer's weight and bias with `parameters` (by qualified name) in place of the trained ones."""
        found = []
        for i, layer in enumerate(self.layers):
            own = {name: parameters.get(f"layers.{i}.{name}", value) for name, value in _tensors(layer)}
            effective = getattr(layer, "effective_weight", None)
            weight = effective(*(own[name] for name in layer.factors)) if effective else own["weight"]  # type: ignore[union-attr]
            found.append(Layer(weight, own["bias"]))
        return found


def build_network(spec: str | Mapping[str, Any], domain: Domain, **shape: Any) -> Network:
    """A network by the name of its file, or from a mapping of a name ("mlp" where there is none) and options: activation,
    fourier, fourier_scale, factorised and what its class adds. shape: the arguments that are no choice. ValueError for what is
    neither, names that do not exist and options of another type."""
    if not isinstance(spec, (str, Mapping)):
        known = ", ".join(names(sys.modules[__name__]))
        raise ValueError(
            f"network is {spec!r}; give a network that is built, a name ({known}), or a mapping of one and options"
        )
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", "mlp")
    cls = find(sys.modules[__name__], Network, name)
    known = {**inspect.signature(Network.__init__).parameters, **inspect.signature(cls.__init__).parameters}
    fixed = {"self", "domain", "fields", "width", "depth", "periodic", "seed", "dtype"}
    kinds = {key: type(p.default) for key, p in known.items() if key not in fixed and p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        check_option(option, value, kinds, of=name)
    return cls(domain, **shape, **options)


def _glorot(m: int, n: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(n, m, device="meta", dtype=dtype).to_empty(device="cpu")
    with torch.no_grad():
        draw = torch.randn(m, n, generator=generator, dtype=torch.float64)
        layer.weight.copy_(math.sqrt(2.0 / (n + m)) * draw)
        layer.bias.zero_()
    return layer


def _waves(inputs: list, frequencies: Tensor) -> list:
    """cos and then sin of sum_k b_jk z_k for every row b_j, all tensors (N,) or all jets."""
    if not isinstance(inputs[0], Jet):
        angles = torch.stack(inputs, dim=-1) @ frequencies.T
        return [*torch.cos(angles).unbind(-1), *torch.sin(angles).unbind(-1)]
    columns = [Jet(z.data.unsqueeze(-1), z.indices) * b for z, b in zip(inputs, frequencies.T, strict=True)]
    angles = reduce(add, columns)
    return [Jet(data, angles.indices) for wave in (cos(angles), sin(angles)) for data in wave.data.unbind(-1)]


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's own parameters and buffers, without torch's slower iterators."""
    return [*module._parameters.items(), *module._buffers.items()]  # type: ignore[list-item]
