"""DeepXDE comes in quietly, on PyTorch, and leaves the process as it was."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from pinn_lora.dde.load import load_deepxde, seeded


def test_the_import_is_quiet_and_leaves_no_trace(tmp_path):
    """Nothing printed, nothing written into the home directory, and the default device that an import sets is taken back."""
    code = """
import os, sys, torch
real = torch.set_default_device
class Sets:  # what deepxde's backend does where there is a GPU
    def find_spec(self, name, path=None, target=None):
        if name == "deepxde.callbacks":
            real("meta")
sys.meta_path.insert(0, Sets())
numpy_state = __import__("numpy").random.get_state()[1].tolist()
from pinn_lora.dde.load import load_deepxde
dde = load_deepxde()
assert dde.backend.backend_name == "pytorch" and dde.config.default_float() == "float32"
assert torch.get_default_device().type == "cpu", torch.get_default_device()
assert torch.get_default_dtype() is torch.float32 and "DDE_BACKEND" not in os.environ
assert __import__("numpy").random.get_state()[1].tolist() == numpy_state
"""
    environment = {k: v for k, v in os.environ.items() if k != "DDE_BACKEND"} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / ".deepxde").exists()


def test_another_backend_is_refused_in_one_sentence(monkeypatch):
    """Where it is asked for, before anything is imported, and where it is there already."""
    ending = "and pinn_lora works with PyTorch: set DDE_BACKEND=pytorch before deepxde is imported"
    monkeypatch.delitem(sys.modules, "deepxde", raising=False)
    monkeypatch.setenv("DDE_BACKEND", "jax")
    with pytest.raises(ValueError, match=f"^DDE_BACKEND is 'jax', {ending}$"):
        load_deepxde()
    assert "deepxde" not in sys.modules
    jax = types.SimpleNamespace(backend=types.SimpleNamespace(backend_name="jax"))
    monkeypatch.setitem(sys.modules, "deepxde", jax)
    with pytest.raises(ValueError, match=f"^DeepXDE is loaded with its jax backend, {ending}$"):
        load_deepxde()


def test_seeded_draws_repeat_and_nothing_global_moves():
    dde = load_deepxde()
    disk = dde.geometry.Disk([0, 0], 1)
    np.random.seed(3)
    expected = np.random.random(4)
    np.random.seed(3)
    drawn = []
    for seed in (5, 5, 6):
        with seeded(seed):
            drawn.append(disk.random_boundary_points(10))
    assert np.array_equal(np.random.random(4), expected)
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert drawn[0].dtype == np.float64 and dde.config.default_float() == "float32"
    with pytest.raises(KeyError), seeded(5):
        raise KeyError
    assert dde.config.default_float() == "float32" and torch.get_default_dtype() is torch.float32
