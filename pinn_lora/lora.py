"""Low-rank adapters W = W0 + s (B A - B0 A0) on a frozen base, and the flat vector of what is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pinn_lora import initializers
from pinn_lora.catalog import build
from pinn_lora.factorised import FactorisedLinear
from pinn_lora.initializers import Initializer, Probe, Site
from pinn_lora.rslora import RSLoRA, Scale, at_rank, scale_of
from pinn_lora.scalars import integer_ranks


class LoRALinear(nn.Module):
    """A linear layer with frozen weight W0 (m, n) and trained factors B (m, r), A (r, n).

    y = x (W0 + s (B A - B0 A0))^T + bias. W0, B0 and A0 are buffers, so that nothing can train them; where the start
    (B0, A0) has a zero factor no copy of it is kept and the start equals the base bit for bit. `scaling` is what gave s.
    """

    factors = ("B", "A")
    weight: Tensor
    bias: Tensor
    B0: Tensor | None
    A0: Tensor | None

    def __init__(
        self, base: nn.Linear, B: Tensor, A: Tensor, *, scale: float | RSLoRA = 1.0, train_bias: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = base.in_features, base.out_features, len(A)
        self.scaling, self.scale = scale, at_rank(scale, len(A))
        self.register_buffer("weight", base.weight.detach().clone())
        self.B, self.A = nn.Parameter(B.to(base.weight)), nn.Parameter(A.to(base.weight))
        moved = bool(B.any()) and bool(A.any())
        self.register_buffer("B0", self.B.detach().clone() if moved else None)
        self.register_buffer("A0", self.A.detach().clone() if moved else None)
        bias = base.bias.detach().clone() if base.bias is not None else base.weight.new_zeros(base.out_features)
        if train_bias:
            self.bias = nn.Parameter(bias)
        else:
            self.register_buffer("bias", bias)

    def effective_weight(self, B: Tensor, A: Tensor) -> Tensor:
        """W0 + s (B A - B0 A0)."""
        change = B @ A if self.B0 is None or self.A0 is None else B @ A - self.B0 @ self.A0
        return self.weight + self.scale * change

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.effective_weight(self.B, self.A), self.bias)


def freeze(module: nn.Module, *, keep: Sequence[str] = ()) -> None:
    """Turns the module's own parameters into buffers, but for those named in `keep`; `unfreeze` knows them again."""
    frozen = [name for name, parameter in module._parameters.items() if parameter is not None and name not in keep]
    for name in frozen:
        parameter = module._parameters.pop(name)
        module.register_buffer(name, parameter.detach())  # type: ignore[union-attr]
    if frozen:
        module.__dict__.setdefault("frozen_parameters", []).extend(frozen)


def unfreeze(network: nn.Module) -> None:
    """Turns what `freeze` made buffers into parameters again, in every module of the network."""
    for module in network.modules():
        for name in module.__dict__.pop("frozen_parameters", ()):
            module.register_parameter(name, nn.Parameter(module._buffers.pop(name)))  # type: ignore[arg-type]


def target_layers(network: nn.Module, targets: str | Sequence[str] | None) -> list[str]:
    """The names of the linear layers meant: "hidden" (what the network says; where it does not, those that neither read the
    coordinates nor give the outputs), which is meant by None, too, "all", or a list of names."""
    targets = "hidden" if targets is None else targets
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    linear = list(layers)
    if isinstance(targets, str):
        if targets not in ("hidden", "all"):
            raise ValueError(f"there is no targets {targets!r} (choices: hidden, all, or a list of layer names)")
        told = getattr(network, "hidden_layers", None)
        hidden = _inner(layers) if told is None else told
        chosen = linear if targets == "all" else [name for name in linear if name in hidden]
    else:
        unknown = [name for name in targets if name not in linear]
        if unknown:
            raise ValueError(f"there is no linear layer {unknown[0]!r} (layers: {', '.join(linear)})")
        chosen = list(targets)
    if not chosen:
        raise ValueError(f"targets={targets!r} names no layer of this network (layers: {', '.join(linear) or 'none'})")
    return chosen


def _inner(layers: Mapping[str, nn.Linear]) -> list[str]:
    """All but the first and the last, and of these the ones that are not as wide as inputs or outputs: networks side by
    side, such as DeepXDE's PFNN, have a first and a last layer each."""
    between = dict(list(layers.items())[1:-1])
    if not between:
        return []
    first, *_, last = layers.values()
    inner = [
        name
        for name, layer in between.items()
        if layer.in_features != first.in_features and layer.out_features != last.out_features
    ]
    return inner or list(between)


def adapt(
    network: nn.Module,
    *,
    rank: int | Mapping[str, int],
    targets: str | Sequence[str] | None = None,
    initializer: str | Initializer = "zero_b",
    scale: Scale = 1.0,
    train_biases: bool = False,
    train_output: bool = False,
    probes: Mapping[str, Probe] | None = None,
    rank_factor: int = 1,
    seed: int = 0,
) -> nn.Module:
    """A copy of `network` whose target layers carry rank-r factors and whose other weights are frozen.

    `rank`: one for all target layers ("hidden" where none are given), or by layer name, and layers that are not named carry
    none. `scale`: s, or "rslora".
    `train_biases` also trains every layer's bias, `train_output` the whole last linear layer, which then must not be a target.
    `probes`: by layer name, for a start that needs the loss's gradient, see `objective.probe`. `rank_factor`: the factors have
    so many times the rank, for a method that freezes a part of them. Raises ValueError for a rank below 1 or above what a
    target layer's smaller side takes, for ranks by name beside other `targets`, for `train_output` beside factors of that
    layer, a scale that is none, and a start without the probe that it needs.
    """
    scaling = scale_of(scale)
    adapted = _unfactorised(network)
    linear = [name for name, module in adapted.named_modules() if isinstance(module, nn.Linear)]
    ranks = _ranks(adapted, integer_ranks(rank), targets)
    chosen = list(ranks)
    if train_output and linear[-1] in chosen:
        raise ValueError(
            f"train_output=True trains the whole of {linear[-1]}, which is to carry factors; leave one of the two out"
        )
    start = build(initializers, Initializer, initializer)
    if start.needs_probe and probes is None:
        raise ValueError(
            f"the start {initializer!r} needs the loss's gradient: finetune gives it, or probes= by objective.probe"
        )
    generator = torch.Generator().manual_seed(seed)
    output = linear[-1] if train_output else None
    for name, module in list(adapted.named_modules()):
        if name in chosen and isinstance(module, nn.Linear):
            r = _fitting(ranks[name], module, name, rank_factor)
            weight = module.weight.detach().double().cpu()
            B, A = start.factors(Site(weight, r, at_rank(scaling, r), generator, (probes or {}).get(name)))
            layer = LoRALinear(module, B, A, scale=scaling, train_bias=train_biases)
            adapted.set_submodule(name, layer)
        elif name == output:
            continue
        else:
            freeze(module, keep=("bias",) if train_biases and isinstance(module, nn.Linear) else ())
    return adapted


def _ranks(network: nn.Module, rank: int | Mapping[str, int], targets: str | Sequence[str] | None) -> Mapping[str, int]:
    """The rank of every layer that is adapted; ValueError where ranks by name and targets do not name the same layers."""
    if not isinstance(rank, Mapping):
        return dict.fromkeys(target_layers(network, targets), rank)
    if not rank:
        raise ValueError(
            "rank is {}; give the rank of at least one layer by its name, or one rank for all target layers"
        )
    named = target_layers(network, list(rank))
    if targets is not None and set(target_layers(network, targets)) != set(named):
        raise ValueError(f"rank names the layers {', '.join(named)} and targets is {targets!r}; leave targets out")
    return rank


def _fitting(rank: int, layer: nn.Linear, name: str, factor: int) -> int:
    """`factor` times the rank; ValueError where the layer does not take it."""
    m, n = layer.out_features, layer.in_features
    most = min(m, n) // factor
    if not 1 <= rank <= most:
        why = f", as this method's factors have {factor} times the rank" if factor > 1 else ""
        choice = f"choose 1 to {most}" if most else "no rank does; choose another method or other targets"
        raise ValueError(f"rank {rank} does not fit the {m} x {n} layer {name!r}{why}; {choice}")
    return rank * factor


def _unfactorised(network: nn.Module) -> nn.Module:
    """A copy with W itself in place of every diag(exp s) V."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, FactorisedLinear):
            plain.set_submodule(name, module.plain())
    return plain


def unfactored(network: nn.Module) -> nn.Module:
    """A copy in which the weight W of every adapted layer is trained itself, and all else as before."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoRALinear):
            layer = nn.Linear(module.in_features, module.out_features, device="meta", dtype=module.weight.dtype)
            layer.weight = nn.Parameter(module.effective_weight(module.B, module.A).detach())
            layer.bias = nn.Parameter(module.bias.detach().clone())
            if not isinstance(module.bias, nn.Parameter):
                freeze(layer, keep=("weight",))
            plain.set_submodule(name, layer)
    return plain


def merge(network: nn.Module) -> nn.Module:
    """A plain network with W0 + s (B A - B0 A0) in place of every adapter, what was frozen trained again, and no weight
    factorised."""
    merged = _unfactorised(unfactored(network))
    unfreeze(merged)
    return merged


def singular_factors(layer: LoRALinear) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, k), sigma (k,) and V^T (k, n) of what an adapter adds to its layer, s (B A - B0 A0), k = r or 2 r."""
    left, right = layer.B.detach(), layer.A.detach()
    if layer.B0 is not None and layer.A0 is not None:
        left, right = torch.cat([left, -layer.B0], 1), torch.cat([right, layer.A0])
    k = min(left.shape[1], *layer.weight.shape)
    Q, R = torch.linalg.qr(layer.scale * left)
    P, T = torch.linalg.qr(right.T)
    U, sigma, V = torch.linalg.svd(R @ T.T)
    return Q @ U[:, :k], sigma[:k], V[:k] @ P.T


def truncate(left: Tensor, right: Tensor, rank: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Balanced factors of the best approximation of left (m, k) times right (k, n) of at most that rank; singular values
    whose squares add up to under `tolerance`^2 of all are left out, too, as zero columns and rows. nan where the product is not
    finite."""
    Q, R = torch.linalg.qr(left)
    P, T = torch.linalg.qr(right.T)
    middle = R @ T.T
    if not middle.isfinite().all():  # a run that diverges: no error of the decomposition
        return left.new_full((len(left), rank), torch.nan), right.new_full((rank, right.shape[1]), torch.nan)
    U, sigma, V = torch.linalg.svd(middle)
    share = sigma / sigma[0]  # whose squares stay in range; nan, which is left out, for a zero product
    tail = share.square().flip(0).cumsum(0).flip(0)
    sigma = torch.where(tail > tolerance**2 * tail[0], sigma, 0.0)[:rank]
    root = sigma.sqrt()
    return Q @ (U[:, :rank] * root), (root[:, None] * V[:rank]) @ P.T


@dataclass(frozen=True)
class Block:
    """A piece of theta: where it lies, and which parameters of the network it holds."""

    name: str
    start: int
    shapes: tuple[tuple[int, ...], ...]
    keys: tuple[str, ...]

    @cached_property
    def sizes(self) -> list[int]:
        """The numbers of entries of its tensors."""
        return [torch.Size(shape).numel() for shape in self.shapes]

    @cached_property
    def size(self) -> int:
        return sum(self.sizes)

    @cached_property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)

    def split(self, flat: Tensor) -> list[Tensor]:
        """The block's tensors as views of its piece (..., size) of flat vectors."""
        parts = flat.split(self.sizes, -1)
        return [part.view(*flat.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]


@dataclass(frozen=True)
class PairBlock(Block):
    """The factors (B, A) of one layer with their scale s."""

    scale: float = 1.0


@dataclass(frozen=True)
class DenseBlock(Block):
    """One tensor trained as it is: a bias, an output layer; in pretraining, everything."""


class Blocks:
    """theta: one flat vector of everything trained in a network, piece by piece."""

    def __init__(self, network: nn.Module) -> None:
        self.blocks: list[PairBlock | DenseBlock] = []
        start = 0
        for name, module in network.named_modules():
            prefix = f"{name}." if name else ""
            keys = [key for key, p in module._parameters.items() if p is not None]
            if isinstance(module, LoRALinear):
                shapes = (tuple(module.B.shape), tuple(module.A.shape))
                pair = PairBlock(name, start, shapes, (f"{prefix}B", f"{prefix}A"), module.scale)
                self.blocks.append(pair)
                start += pair.size
                keys = [key for key in keys if key not in ("B", "A")]
            for key in keys:
                shape = tuple(module._parameters[key].shape)  # type: ignore[union-attr]
                self.blocks.append(DenseBlock(prefix + key, start, (shape,), (prefix + key,)))
                start += self.blocks[-1].size
        self.size = start
        if not start:
            raise ValueError("this network has nothing to train: all of its parameters are frozen")

    @property
    def pairs(self) -> list[PairBlock]:
        return [block for block in self.blocks if isinstance(block, PairBlock)]

    @cached_property
    def _tensors(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Of every tensor of theta, in its order, the qualified name, the number of entries and the shape."""
        return [one for block in self.blocks for one in zip(block.keys, block.sizes, block.shapes, strict=True)]

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """The trained tensors by qualified name, as views of theta."""
        parts = theta.split([size for _, size, _ in self._tensors])
        return {key: part.view(shape) for part, (key, _, shape) in zip(parts, self._tensors, strict=True)}

    def read(self, network: nn.Module) -> Tensor:
        """theta as the network holds it."""
        held = dict(network.named_parameters())
        return torch.cat([held[key].detach().reshape(-1) for block in self.blocks for key in block.keys])

    def write(self, network: nn.Module, theta: Tensor) -> None:
        """Puts theta into the network."""
        held = dict(network.named_parameters())
        with torch.no_grad():
            for key, value in self.parameters(theta).items():
                held[key].copy_(value)

    def drift(self, theta: Tensor) -> float | None:
        """Imbalance of the factors: sum over pairs of ||B^T B - A A^T||_F / (||B||_F^2 + ||A||_F^2); None without pairs."""
        if not self.pairs:
            return None
        total = 0.0
        for block in self.pairs:
            B, A = block.split(theta[block.slice])
            total += float((B.T @ B - A @ A.T).norm() / (B.square().sum() + A.square().sum()))
        return total
