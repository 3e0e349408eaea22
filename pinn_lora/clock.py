"""The clock that runs are timed by."""

from __future__ import annotations

import time

import torch


def by_cpu_time(device: torch.device) -> bool:
    """Whether runs are timed by the process's CPU time: on one thread of a CPU, where it is what the wall clock would show
    on a machine that does nothing else."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def seconds(device: torch.device) -> float:
    """CPU seconds of this process where it computes on one thread of a CPU, else the wall clock's; differences count."""
    return time.process_time() if by_cpu_time(device) else time.perf_counter()
