"""Devices: whether one that is asked for can be computed on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch


def check_device(device: Any, dtype: torch.dtype | None = None) -> None:
    """Adds two numbers of the type on the device. ValueError, in one sentence, where that fails, whatever the reason: torch
    also knows devices that it was not built for, that are not there, and that hold no numbers. Its own words for those are
    paragraphs; they are told of a device that is there."""
    try:
        with warnings.catch_warnings(action="ignore"):  # a name that is no longer used brings one, and fails then
            float(torch.ones(2, device=device, dtype=dtype).sum())
    except Exception as error:
        there = ["cpu", *_accelerators()]
        reason = _reason(device, there, error)
        raise ValueError(f"the device {device!r} cannot be used here (choices: {', '.join(there)}): {reason}") from None


def _reason(device: Any, there: Sequence[str], error: Exception) -> str:
    """Why, in a few words."""
    try:
        kind = torch.device(device).type
    except Exception:  # torch raises several kinds
        return "torch has no device of that name"
    if kind not in {name.partition(":")[0] for name in there}:
        return f"torch {torch.__version__} finds no such device that computes"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _accelerators() -> list[str]:
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] + mps
