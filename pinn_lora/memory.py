"""How much memory there is, and how much a run took."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

_STATUS, _CLEAR, _INFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


def _line(path: Path, name: str) -> float | None:
    """A figure in MiB from a /proc file that counts in kB; None where the system has none."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return float(line.split()[1]) / 1024.0
    except OSError:
        pass
    return None


def available_mib(device: torch.device) -> float | None:
    """Memory that can still be had on the device without swapping; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    return _line(_INFO, "MemAvailable:")


def room_gib(device: torch.device, max_memory: float | None = None) -> float | None:
    """What one computation may take, GiB: what the device has free, and no more than `max_memory`; None where the system does
    not say and nothing is given."""
    free = available_mib(device)
    known = [gib for gib in (free and free / 1024, max_memory) if gib is not None]
    return min(known, default=None)


def check_room(what: str, size: int, device: torch.device) -> None:
    """MemoryError, in one sentence, where three float64 matrices (size, size) do not fit: the matrix and two to work with."""
    needed, free = 3 * 8 * size**2 / 2**20, available_mib(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"the {what} of {size:,} unknowns takes {needed / 3072:.1f} GiB, three times over, and {free / 1024:.1f} GiB "
            "are free; train fewer unknowns (LoRA factors of a lower rank) or use an L-BFGS method"
        )


def reset_peak_memory() -> None:
    """Starts the peak afresh."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mib(device: str = "cpu") -> float | None:
    """The largest memory the process, or the device it computes on, has held since the last reset."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _line(_STATUS, "VmHWM:")
