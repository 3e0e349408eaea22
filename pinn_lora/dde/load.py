"""DeepXDE, imported in one place: on its PyTorch backend, quietly, and with nothing global left changed."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import torch

BACKEND = "pytorch"


def load_deepxde() -> ModuleType:
    """The package deepxde on its PyTorch backend.

    It reads DDE_BACKEND when it is imported, prints, and sets torch's default device where there is a GPU: here the variable
    and the device are afterwards as before. ValueError where another backend is chosen or already loaded.
    """
    if "deepxde" not in sys.modules:
        chosen = os.environ.get("DDE_BACKEND", BACKEND)
        if chosen != BACKEND:
            raise ValueError(_refusal(f"DDE_BACKEND is {chosen!r}"))
        _import()
    deepxde = sys.modules["deepxde"]
    loaded = deepxde.backend.backend_name
    if loaded != BACKEND:
        raise ValueError(_refusal(f"DeepXDE is loaded with its {loaded} backend"))
    return deepxde


def _refusal(found: str) -> str:
    return f"{found}, and pinn_lora works with PyTorch: set DDE_BACKEND=pytorch before deepxde is imported"


def _import() -> None:
    device, given = torch.get_default_device(), "DDE_BACKEND" in os.environ
    os.environ["DDE_BACKEND"] = BACKEND  # else it may write its choice into a file in the home directory
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module("deepxde")
    finally:
        if not given:
            del os.environ["DDE_BACKEND"]
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """DeepXDE's polygons use a product of numpy's that is to go: nothing that a user of ours can mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Arrays of 2-dimensional vectors are deprecated", DeprecationWarning)
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """DeepXDE draws from numpy's global generator, in its default float: inside, the one is at `seed` and the other double;
    afterwards both are as they were."""
    real, state = load_deepxde().config.real, np.random.get_state()
    precision = real.precision
    np.random.seed(seed % 2**32)
    real.set_float64()
    try:
        with without_warnings():
            yield
    finally:
        np.random.set_state(state)
        real.__init__(precision)
