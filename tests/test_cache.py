"""What is kept on disk is made once, and again where what it is made from changes."""

import numpy as np
import pytest

from pinn_lora.references import accurate, kept


def test_it_is_made_once_for_what_it_is_made_from(monkeypatch, tmp_path):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path / "folder"))
    made = []

    def make():
        made.append(1)
        return {"values": np.arange(3.0), "error": 0.5}

    first, again = (kept("thing", {"nu": 0.1}, make, version=1) for _ in range(2))
    np.testing.assert_array_equal(first["values"], again["values"])
    assert float(again["error"]) == 0.5
    assert len(made) == 1
    kept("thing", {"nu": 0.2}, make, version=1)
    assert len(made) == 2
    assert len(list((tmp_path / "folder").iterdir())) == 2
    kept("thing", {"nu": 0.2}, make, version=2)  # another solver
    assert len(made) == 3


@pytest.mark.parametrize("left", [0, 1, 100, -1], ids="{} bytes left".format)
def test_a_file_that_cannot_be_read_is_made_anew(monkeypatch, tmp_path, left):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    make = lambda: {"values": np.arange(300.0)}  # noqa: E731
    kept("thing", {}, make, version=1)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    np.testing.assert_array_equal(kept("thing", {}, make, version=1)["values"], np.arange(300.0))
    assert path.read_bytes() == whole


def test_a_file_with_a_wrong_byte_in_its_middle_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    make = lambda: {"values": np.arange(300.0)}  # noqa: E731
    kept("thing", {}, make, version=1)
    (path,) = tmp_path.iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    np.testing.assert_array_equal(kept("thing", {}, make, version=1)["values"], np.arange(300.0))


def test_without_a_folder_to_write_to_it_goes_on_with_a_warning(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"nothing can be kept in .*cache .*PINN_LORA_CACHE chooses another") as told:
        found = kept("thing", {}, lambda: {"x": 1.0}, version=1)
    assert float(found["x"]) == 1.0
    assert len(told) == 1


def test_a_folder_that_runs_full_leaves_no_half_written_file(monkeypatch, tmp_path):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))

    def full(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        kept("thing", {}, lambda: {"x": 1.0}, version=1)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))

    def fail():
        raise ValueError("no solution")

    with pytest.raises(ValueError, match="no solution"):
        kept("thing", {}, fail, version=1)
    assert not list(tmp_path.iterdir())


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PINN_LORA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept("thing", {}, lambda: {"x": 1.0}, version=1)
    assert len(list((tmp_path / "pinn_lora").iterdir())) == 1


def test_an_error_that_is_too_large_to_judge_by_is_refused_with_its_number():
    assert accurate("KdV", {"delta": 0.022}, 1e-9) == 1e-9
    said = r"^KdV: at delta = 0.002 the reference may err by 8e-01 \(relative L2\), and what errs by more than 1e-04"
    for error in (0.84, float("nan")):
        with pytest.raises(ValueError, match=said if error == error else "may err by nan"):
            accurate("KdV", {"delta": 0.002}, error)
