"""The version, and what numbers depend on: versions of the libraries and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

__version__ = "0.1.0"

PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "deepxde", "pyDOE")


def versions() -> dict[str, str]:
    """Of this package, Python and what the numbers depend on."""
    found = {"pinn_lora": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


@cache
def source() -> str:
    """The code that runs: its commit where the package lies in a git checkout, marked where files of it were edited since, else
    its version. Asked once a process, which goes on with the code that it has loaded."""
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():
        return __version__
    ask = ["git", "--no-optional-locks", "-C", str(package)]
    try:
        commit, edited = (
            subprocess.run([*ask, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or not its owner's checkout
        return __version__
    return f"{commit}, edited" if edited else commit


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores and memory, and the accelerator where the device is one."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        processor = found[1].strip() if found else processor
    if device != "cpu" and torch.cuda.is_available():
        processor += f", {torch.cuda.get_device_name(device)}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    return {"processor": processor, "cores": os.cpu_count(), "memory_gib": round(memory, 1) if memory else None}
