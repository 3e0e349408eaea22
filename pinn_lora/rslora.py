"""The scale s of adapters, W = W0 + s (B A - B0 A0): a number, or rsLoRA's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pinn_lora.catalog import check_option, choose
from pinn_lora.ranges import POSITIVE, check_ranges
from pinn_lora.scalars import reals


@dataclass(frozen=True)
class RSLoRA:
    """s = alpha / sqrt(r) in every layer, r the rank of its factors: the change of the output neither dies nor explodes as r
    grows, as it would with LoRA's alpha / r and with one s for all ranks. In a config "rslora", or { name = "rslora",
    alpha = 2.0 }. Source: Kalajdzievski, rsLoRA, 2023 (arXiv 2312.03732). ValueError for an alpha that is not positive.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, alpha=POSITIVE)


Scale = float | str | Mapping[str, Any] | RSLoRA  # as it is given; read by `scale_of`


def scale_of(given: Scale) -> float | RSLoRA:
    """The number or the rule that is meant: 0.5, "rslora", a mapping of its name and options, or the rule. ValueError, in one
    sentence, for what is none."""
    if isinstance(given, RSLoRA):
        return given
    if isinstance(given, str | Mapping):
        options: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
        choose(options.pop("name", ""), ["rslora"], what="scale")
        for option, value in options.items():
            check_option(option, value, {"alpha": float}, of="rslora")
        return RSLoRA(**options)
    [number] = reals(scale=given)
    if number not in POSITIVE:
        raise ValueError(f"the adapter's scale is {given}; it must be a positive number, or 'rslora'")
    return number


def at_rank(scale: float | RSLoRA, rank: int) -> float:
    """s of an adapter of that rank."""
    return scale.alpha / math.sqrt(rank) if isinstance(scale, RSLoRA) else scale


def described(scale: float | RSLoRA) -> float | dict[str, Any]:
    """The scale in plain values, which `scale_of` reads."""
    return {"name": "rslora", "alpha": scale.alpha} if isinstance(scale, RSLoRA) else scale
