"""How much memory there is, and how much a run took."""

from __future__ import annotations

import contextlib
import math
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


FEWER = "train fewer unknowns (LoRA factors of a lower rank)"


def no_room(
    what: str, needed: float, room: float, advice: str, max_memory: float | None = None, free: float | None = None
) -> MemoryError:
    """The sentence for what takes more GiB than there are, or than `max_memory` allows; `free`: what the device has."""
    if max_memory is None or max_memory > room:
        return MemoryError(f"the {what} takes {needed:.2g} GiB and {room:.2g} GiB are free; {advice}")
    enough = math.ceil(100 * needed) / 100
    if free is not None and enough > free:
        return MemoryError(
            f"the {what} takes {needed:.2g} GiB, above max_memory={room:g} and the {free:.2g} GiB free; {advice}"
        )
    return MemoryError(
        f"the {what} takes {needed:.2g} GiB; {advice}, or give max_memory={enough:g} instead of {room:g}"
    )


def check_room(what: str, size: int, device: torch.device) -> None:
    """MemoryError, in one sentence, where three float64 matrices (size, size) do not fit: the matrix and two to work with."""
    needed, room = 3 * 8 * size**2 / 2**30, room_gib(device)
    if room is not None and needed > room:
        raise no_room(f"{what} of {size:,} unknowns", needed, room, f"{FEWER} or use an L-BFGS method")


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
