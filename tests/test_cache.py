"""What is kept on disk is made once, and again where what it is made from changes."""

import numpy as np
import pytest

from pinn_lora.references import kept


def test_it_is_made_once_for_what_it_is_made_from(monkeypatch, tmp_path):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path / "folder"))
    made = []

    def make():
        made.append(1)
        return {"values": np.arange(3.0), "error": 0.5}

    first, again = (kept("thing", {"nu": 0.1}, make) for _ in range(2))
    np.testing.assert_array_equal(first["values"], again["values"])
    assert float(again["error"]) == 0.5
    assert len(made) == 1
    kept("thing", {"nu": 0.2}, make)
    assert len(made) == 2
    assert len(list((tmp_path / "folder").iterdir())) == 2


def test_a_failure_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))

    def fail():
        raise ValueError("no solution")

    with pytest.raises(ValueError, match="no solution"):
        kept("thing", {}, fail)
    assert not list(tmp_path.iterdir())


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PINN_LORA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept("thing", {}, lambda: {"x": 1.0})
    assert len(list((tmp_path / "pinn_lora").iterdir())) == 1
