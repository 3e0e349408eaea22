"""What several tests share: one thread, a coarse grid, a small base that is trained once, and the command line."""

import atexit
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from made_up import reported
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import solution
from pinn_lora.cli import main

torch.set_num_threads(1)  # deterministic sums, and no fight between workers
if "PYTEST_XDIST_WORKER" not in os.environ:  # references are computed, not found, and once for all workers
    os.environ["PINN_LORA_CACHE"] = tempfile.mkdtemp(prefix="pinn_lora-tests-")
    atexit.register(shutil.rmtree, os.environ["PINN_LORA_CACHE"], ignore_errors=True)


GRID = solution.GRID.copy()


@pytest.fixture(scope="session", autouse=True)
def coarse_grid() -> Iterator[None]:
    """Errors are taken at 41 x 41 points instead of 161 x 161: a short training records one after every step, and that took
    longer than all else. A test of the grid itself, or one that compares with another process, asks for `users_grid`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(solution.GRID, 2, 41)
        yield


@pytest.fixture
def users_grid(monkeypatch) -> Iterator[None]:
    """Errors are taken where users have them."""
    solution._cached_reference.cache_clear()
    monkeypatch.setitem(solution.GRID, 2, GRID[2])
    yield
    solution._cached_reference.cache_clear()


@pytest.fixture(scope="session")
def small_base() -> pl.Solution:
    """A 2 x 10 network trained on Burgers at nu = 0.1/pi; not accurate, but real."""
    return pl.pretrain(Burgers(nu=0.1 / math.pi), width=10, depth=2, max_steps=80, points=400)


@pytest.fixture
def target() -> Burgers:
    return Burgers(nu=0.2 / math.pi)


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """pinn-lora with these arguments, in this process, which has imported everything already: (exit code, stdout, stderr)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pinn-lora", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def plain_module() -> torch.nn.Module:
    """A network that is not ours, not periodic."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = [(2, 10), (10, 10), (10, 1)]
        layers = [torch.nn.Linear(n, m, dtype=torch.float64) for n, m in sizes]
    return torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    return reported(tmp_path_factory.mktemp("results") / "made-up")
