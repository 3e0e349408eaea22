"""What several tests share: one thread, and a small base that is trained once."""

import math
import os
import tempfile

import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl

torch.set_num_threads(1)  # deterministic sums, and no fight between workers
os.environ["PINN_LORA_CACHE"] = tempfile.mkdtemp(prefix="pinn_lora-tests-")  # references are computed, not found


@pytest.fixture(scope="session")
def small_base() -> pl.Solution:
    """A 2 x 10 network trained on Burgers at nu = 0.1/pi; not accurate, but real."""
    return pl.pretrain(Burgers(nu=0.1 / math.pi), width=10, depth=2, max_steps=80, points=400)


@pytest.fixture
def target() -> Burgers:
    return Burgers(nu=0.2 / math.pi)
