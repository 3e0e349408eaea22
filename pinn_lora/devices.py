"""Devices: whether one that is asked for can be computed on."""

from __future__ import annotations

import warnings
from typing import Any

import torch


def check_device(device: Any, dtype: torch.dtype | None = None) -> None:
    """Adds two numbers of the type on the device. ValueError, in one sentence, where that fails, whatever the reason: torch
    also knows devices that it was not built for, that are not there, and that hold no numbers."""
    try:
        with warnings.catch_warnings(action="ignore"):  # a name that is no longer used brings one, and fails then
            float(torch.ones(2, device=device, dtype=dtype).sum())
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        there = ", ".join(["cpu", *_accelerators()])
        raise ValueError(f"the device {device!r} cannot be used here (choices: {there}): {reason}") from None


def _accelerators() -> list[str]:
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] + mps
