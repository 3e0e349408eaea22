"""Numbers as they are given: those of numpy and torch are taken as Python's, and what is none gets one sentence."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np


def integers(**given: Any) -> list[Any]:
    """The arguments as int, in their order; None stays None. ValueError names the one that is no whole number; True is none."""
    found = []
    for name, value in given.items():
        try:
            if isinstance(value, bool):
                raise TypeError
            found.append(None if value is None else int(operator.index(value)))
        except TypeError:
            raise ValueError(f"{name} is {value!r}; give a whole number") from None
    return found


def whole(value: Any) -> Any:
    """A whole number as int, of numpy or as a float too; anything else as it is."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return int(value)
    return int(value) if isinstance(value, np.integer) else value


def reals(**given: Any) -> list[Any]:
    """The arguments as float, in their order; None stays None. ValueError names the one that is no number; True is none."""
    found = []
    for name, value in given.items():
        try:
            if isinstance(value, bool):
                raise TypeError
            found.append(None if value is None else float(operator.pos(value)))  # "1" is text
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {value!r}; give a number") from None
    return found


def switches(**given: Any) -> None:
    """ValueError that names the first of the arguments that is neither True nor False: a text would count as true."""
    for name, value in given.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} is {value!r}; give True or False")


SEEDS = 2**62  # generators take 63 bits, and runs add to the seed


def checked_seed(seed: Any) -> int:
    """A seed as int. ValueError for what is none."""
    number = integers(seed=seed)[0]
    if number is None or not 0 <= number < SEEDS:
        raise ValueError(f"seed is {seed!r}; give a whole number from 0 to 2^62 - 1")
    return number


def integer_ranks(rank: Any) -> Any:
    """A rank, or one by layer name, as int; None stays None. ValueError as for `integers`."""
    if isinstance(rank, Mapping):
        return dict(zip(rank, integers(**{f"the rank of {name}": r for name, r in rank.items()}), strict=True))
    return integers(rank=rank)[0]


def term_weights(weights: Mapping[str, Any] | None) -> dict[str, float]:
    """Weights by term name as float, none where there are none. ValueError as for `reals`, and for what is no mapping."""
    if weights is not None and not isinstance(weights, Mapping):
        raise ValueError(
            f"weights is {weights!r:.60}; give a mapping from the names of loss terms to numbers, or leave it out"
        )
    weights = weights or {}
    return dict(zip(weights, reals(**{f"the weight of {name}": w for name, w in weights.items()}), strict=True))


def plain(value: Any) -> Any:
    """A number of numpy as Python's; TypeError for anything else, as `json` asks for it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be saved; give numbers, text, lists or mappings of them")


def json_text(record: Any, *, indent: int | None = None) -> str:
    """The record as JSON, numbers of numpy like Python's. TypeError for what JSON cannot hold."""
    return json.dumps(record, indent=indent, default=plain) + "\n"
