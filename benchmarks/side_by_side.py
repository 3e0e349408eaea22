"""What the benchmarks share: ways that take turns and must agree, CPU seconds, the machine, and the file that is written."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from pinn_lora import about
from pinn_lora.folders import write_atomically

Way = Callable[[], Sequence[torch.Tensor]]


def medians(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU seconds of this process in each way, medians. The ways take turns; in each turn a way is called twice and the second
    call counts: training calls one way again and again, and finds in the caches what it left there itself.

    On one thread CPU time is what the wall clock would show on a machine that does nothing else; more threads are all charged.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            way()
            start = time.process_time()
            way()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def differences(ways: Mapping[str, Way], tolerance: float) -> dict[str, float]:
    """How far each way's tensors are from the first's, relative to its largest entries; RuntimeError beyond the tolerance."""
    first: list[torch.Tensor] | None = None
    errors = {}
    for name, way in ways.items():
        found = [value.double() for value in way()]
        first = found if first is None else first
        parts = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, first, strict=True)]
        errors[name] = max(parts)
        if not all(part <= tolerance for part in parts):
            worst = max(parts, key=lambda part: (part != part, part))
            raise RuntimeError(f"{name} differs from the first way by {worst:.1e}, more than {tolerance:.0e}")
    return errors


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """These environment variables, and afterwards those that were there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def machine() -> dict:
    """What the numbers depend on: processor, system, versions and threads."""
    return {**about.machine(), "system": platform.system(), "threads": torch.get_num_threads(), **about.versions()}


def write(path: Path, record: dict) -> None:
    """The record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=2) + "\n")
    print(f"written to {path}")
