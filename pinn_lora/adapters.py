"""Solutions on disk: adapters in PEFT's layout with safetensors, whole networks beside them.

An adapter folder holds adapter_config.json and adapter_model.safetensors, as PEFT writes them, and pinn_lora.json with the
fingerprint of the base, the problem and the settings. A start with B0 A0 != 0 is stored as plain LoRA of rank 2r,
[B, -B0] and [A; A0].
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pinn_lora.domain import Domain
from pinn_lora.folders import in_use, plain_path
from pinn_lora.lora import LoRALinear, freeze, merge
from pinn_lora.networks import Network
from pinn_lora.problem import Problem
from pinn_lora.rslora import RSLoRA, described, scale_of
from pinn_lora.scalars import json_text

PREFIX = "base_model.model."
NOTES, CONFIG, ADAPTER, NETWORK = (
    "pinn_lora.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "network.safetensors",
)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's tensors by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe_problem(problem: Problem) -> dict[str, Any]:
    """Where a problem's class lives and its coefficients. ValueError for a class that is no dataclass."""
    cls = type(problem)
    if not dataclasses.is_dataclass(cls):
        raise ValueError(f"{cls.__name__} cannot be saved: make it a dataclass, @dataclass(frozen=True)")
    return {"module": cls.__module__, "class": cls.__qualname__, "coefficients": dataclasses.asdict(problem)}  # type: ignore[call-overload]


def build_problem(described: dict[str, Any], folder: str | Path) -> Problem:
    """The problem a folder was saved with; ValueError where its class cannot be imported or has changed."""
    where = f"{described['module']}.{described['class']}"
    cls = _find_class(
        described, f"{folder} was saved with the problem {where}, which cannot be imported; pass problem="
    )
    try:
        return cls(**described["coefficients"])
    except TypeError as error:
        raise ValueError(f"{folder} was saved with another version of {where}: {error}; pass problem=") from None


def describe_network(network: nn.Module) -> dict[str, Any] | None:
    """Where a network's class lives, what it is built with, and the domain by which it scales its inputs, which may be another
    than the problem's; None for a module that is no network of ours."""
    if not isinstance(network, Network):
        return None
    cls, domain = type(network), network.domain
    bounds = {name: ends for name, *ends in zip(domain.names, domain.lower, domain.upper, strict=True)}
    return {"module": cls.__module__, "class": cls.__qualname__, "domain": bounds, **network.describe()}


def build_network(described: dict[str, Any], problem: Problem, folder: str | Path, dtype: torch.dtype) -> Network:
    """A network of the shape that a folder was saved with; ValueError where its class cannot be imported."""
    shape = {"module": "pinn_lora.networks.mlp", "class": "MLP", **described}  # all there was in the first folders
    where = f"{shape['module']}.{shape['class']}"
    cls = _find_class(shape, f"{folder} was saved with the network {where}, which cannot be imported; pass base=")
    options = {name: value for name, value in shape.items() if name not in ("module", "class", "domain")}
    domain = Domain(**shape["domain"]) if "domain" in shape else problem.domain  # older folders do not say
    return cls(domain, dtype=dtype, **options)


def _find_class(described: dict[str, Any], message: str) -> Any:
    try:
        return getattr(importlib.import_module(described["module"]), described["class"])
    except (ImportError, AttributeError):
        raise ValueError(message) from None


def _new_folder(folder: str | Path, notes: dict[str, Any]) -> Path:
    json_text(notes)  # what cannot be written raises before anything is
    folder = plain_path(folder)
    if in_use(folder):
        raise FileExistsError(f"{folder} exists and is not empty; nothing was written: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_notes(folder: Path, notes: dict[str, Any]) -> Path:
    (folder / NOTES).write_text(json_text(notes, indent=2))
    return folder


def read_notes(folder: str | Path) -> dict[str, Any]:
    """What pinn_lora.json says; ValueError for a folder that holds no solution."""
    path = Path(folder) / NOTES
    if not path.is_file():
        raise ValueError(f"{folder} holds no saved solution: there is no {NOTES} in it")
    try:
        notes = json.loads(path.read_text())
    except json.JSONDecodeError:
        notes = None
    if not isinstance(notes, dict) or notes.get("kind") not in ("adapter", "network"):
        raise ValueError(f"{folder} holds no saved solution: its {NOTES} does not describe one")
    return notes


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """By ourselves, as safetensors' own file can be read by its owner alone."""
    path.write_bytes(save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))


def save_network(network: nn.Module, folder: str | Path, *, notes: dict[str, Any]) -> Path:
    """All tensors of a network, with what rebuilds it where it is one of ours."""
    folder = _new_folder(folder, notes)
    _write_tensors(folder / NETWORK, network.state_dict())
    shape = {"network": describe_network(network), "fingerprint": fingerprint(network)}
    return _write_notes(folder, {"kind": "network", **shape, **notes})


def save_adapter(network: nn.Module, folder: str | Path, *, base: nn.Module, notes: dict[str, Any]) -> Path:
    """The factors of an adapted network and whatever else was trained; whole networks where all weights were."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LoRALinear)}
    if not layers:
        return save_network(network, folder, notes={"base": fingerprint(base), **notes})
    folder, tensors, dense = _new_folder(folder, notes), {}, []
    for name, layer in layers.items():
        B, A = layer.B.detach(), layer.A.detach()
        if layer.B0 is not None and layer.A0 is not None:
            B, A = torch.cat([B, -layer.B0], dim=1), torch.cat([A, layer.A0])
        tensors[f"{PREFIX}{name}.lora_B.weight"], tensors[f"{PREFIX}{name}.lora_A.weight"] = B, A
    for name, value in network.named_parameters():
        owner, _, key = name.rpartition(".")
        if owner in layers and key in ("B", "A"):
            continue
        dense.append(name)
        tensors[f"{PREFIX}{owner}.base_layer.{key}" if owner in layers else PREFIX + name] = value.detach()
    _write_tensors(folder / ADAPTER, tensors)
    first = next(iter(layers.values()))
    paired = first.B0 is not None
    ranks = {name: layer.rank * (2 if paired else 1) for name, layer in layers.items()}
    rank = max(ranks.values())
    other = {name: r for name, r in ranks.items() if r != rank}
    biases = [name.rpartition(".")[0] for name in dense if name.endswith(".bias")]
    stable = isinstance(first.scaling, RSLoRA)  # one alpha, s = alpha / sqrt(r); else one s, alpha = s r of each layer
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": first.scale * (math.sqrt(ranks[next(iter(layers))]) if stable else rank),
        "use_rslora": stable,
        "rank_pattern": other,
        "alpha_pattern": {} if stable else {name: first.scale * r for name, r in other.items()},
        "target_modules": list(layers),
        "bias": "none" if not biases else "lora_only" if set(biases) <= set(layers) else "all",
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json_text(config, indent=2))
    more = {
        "kind": "adapter",
        "base": fingerprint(base),
        "scale": described(first.scaling),
        "start_subtracted": paired,
        "dense": dense,
    }
    return _write_notes(folder, {**more, **notes})


def load(folder: str | Path, notes: dict[str, Any], *, problem: Problem, base: nn.Module | None) -> nn.Module:
    """The network that a folder holds. ValueError for an adapter without its base, and for what was made from another one;
    folders of all weights from before their base was noted take any."""
    folder = Path(folder)
    if base is None and notes["kind"] == "adapter":
        raise ValueError(f"{folder} holds an adapter; pass base= with the solution it was made from")
    if base is not None and notes.get("base", made_from := fingerprint(base)) != made_from:
        raise ValueError(f"{folder} was made from another base: its fingerprint is {notes['base'][:12]}")
    if notes["kind"] == "network":
        return _load_network(folder, notes, problem, base)
    assert base is not None
    return _load_adapter(_read_tensors(folder / ADAPTER), notes, base)


def _load_network(folder: Path, notes: dict[str, Any], problem: Problem, base: nn.Module | None) -> nn.Module:
    """All tensors in a network as it was saved; in a copy of the base where its class is none of ours or not there."""
    if base is None and notes["network"] is None:
        raise ValueError(f"{folder} holds a network that is none of pinn_lora's; pass base= with one of its shape")
    tensors = _read_tensors(folder / NETWORK)
    like = next(iter(tensors.values()))
    plain = network = None if base is None else merge(base).to(like.dtype)
    try:
        if notes["network"] is not None:  # the base's activation and scaling may be others
            network = build_network(notes["network"], problem, folder, like.dtype)
    except ValueError:
        if base is None:
            raise
    assert network is not None
    shapes = {name: value.shape for name, value in tensors.items()}
    for held in (network, plain or network):
        if shapes != {name: value.shape for name, value in held.state_dict().items()}:
            told = f"{folder} holds a network of another shape than the base"
            raise ValueError(f"{told}; pass the base it was made from")
    network.load_state_dict(tensors)
    return network if plain is None else network.to(next(plain.parameters()).device)


def _load_adapter(tensors: dict[str, Tensor], notes: dict[str, Any], base: nn.Module) -> nn.Module:
    network = merge(base).to(next(iter(tensors.values())).dtype)
    for name, module in list(network.named_modules()):
        key = f"{PREFIX}{name}."
        if f"{key}lora_B.weight" not in tensors or not isinstance(module, nn.Linear):
            freeze(module, keep=[d.rpartition(".")[2] for d in notes["dense"] if d.rpartition(".")[0] == name])
            continue
        B, A = tensors[f"{key}lora_B.weight"], tensors[f"{key}lora_A.weight"]
        rank = len(A) // 2 if notes["start_subtracted"] else len(A)
        layer = LoRALinear(
            module, B[:, :rank], A[:rank], scale=scale_of(notes["scale"]), train_bias=f"{name}.bias" in notes["dense"]
        )
        if notes["start_subtracted"]:
            layer.B0, layer.A0 = (-B[:, rank:]).contiguous().to(module.weight), A[rank:].contiguous().to(module.weight)
        else:
            layer.B0 = layer.A0 = None
        network.set_submodule(name, layer)
    held = dict(network.named_parameters())
    with torch.no_grad():
        for name in notes["dense"]:
            owner, _, key = name.rpartition(".")
            stored = f"{PREFIX}{owner}.base_layer.{key}"
            held[name].copy_(tensors[stored if stored in tensors else PREFIX + name])
    return network
