"""What takes long to compute and never changes, kept on disk: the references without a closed form."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ACCURATE = 1e-4  # relative L2: errors of a percent are still a hundred times above it


def accurate(name: str, parameters: Mapping[str, float], error: float) -> float:
    """The error (relative L2) of a reference; ValueError where it is too large to judge by."""
    if not error <= ACCURATE:
        at = ", ".join(f"{key} = {value:g}" for key, value in parameters.items())
        said = f"the reference may err by {error:.0e} (relative L2), and what errs by more than {ACCURATE:.0e} judges nothing"
        raise ValueError(f"{name}: at {at} {said}; choose coefficients that make the solution smoother")
    return error


def kept(
    name: str, told: Mapping[str, Any], make: Callable[[], dict[str, Any]], *, version: int
) -> dict[str, np.ndarray]:
    """The arrays that `make` gives, made once: kept in the user's cache folder ($PINN_LORA_CACHE, else
    $XDG_CACHE_HOME/pinn_lora, else ~/.cache/pinn_lora) under a name with a hash of `told`, which says all that they are made
    from, and of the solver's `version`. A `make` that raises leaves nothing behind. A file that cannot be read is made anew;
    where none can be written, a warning says so, and the arrays are made again next time."""
    text = json.dumps({**told, "version": version}, sort_keys=True)
    path = _folder() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    try:
        with path.open("rb") as file, np.load(file) as held:
            return {key: held[key] for key in held}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # none yet, or cut off
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in make().items()}
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(temporary, **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = f"references are computed anew each time: nothing can be kept in {path.parent} ({error.strerror})"
        warnings.warn(f"{reason}; $PINN_LORA_CACHE chooses another folder", stacklevel=2)
    return arrays


def _folder() -> Path:
    chosen = os.environ.get("PINN_LORA_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pinn_lora"
