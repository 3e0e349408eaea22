"""What takes long to compute and never changes, kept on disk: the references without a closed form."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def kept(name: str, told: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays that `make` gives, made once: kept in the user's cache folder ($PINN_LORA_CACHE, else
    $XDG_CACHE_HOME/pinn_lora, else ~/.cache/pinn_lora) under a name with a hash of `told`, which says all that they are made
    from. A `make` that raises leaves nothing behind."""
    text = json.dumps(dict(told), sort_keys=True)
    path = _folder() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    if not path.is_file():
        arrays = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(temporary, told=text, **arrays)
        os.replace(temporary, path)
    with np.load(path) as held:
        return dict(held)


def _folder() -> Path:
    chosen = os.environ.get("PINN_LORA_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pinn_lora"
