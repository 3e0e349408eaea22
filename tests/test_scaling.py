"""The benchmark of growing sizes: its exponents, its memory, and that it runs and draws."""

import json

import numpy as np
import pytest
import torch
from benchmark import load
from PIL import Image

from pinn_lora import solvers
from pinn_lora.catalog import find

bench = load("scaling")


def test_the_exponent_is_that_of_the_upper_half():
    """Seconds that grow as n below 100 and as n^2.5 from there on; the fit is exact to rounding."""
    sizes = [1, 10, 100, 1000, 10_000]
    seconds = [n if n < 100 else 100 * (n / 100) ** 2.5 for n in sizes]
    assert bench.exponent(sizes, seconds) == pytest.approx(2.5, rel=1e-12)
    assert bench.exponent(sizes[:2], seconds[:2]) == pytest.approx(1.0, rel=1e-12)


def test_the_peak_is_what_the_call_holds_at_once():
    """A hundred MiB that are written to and let go again, where the system counts; a tenth for its other pages."""
    before = bench.held()
    peak = bench.peak_of(lambda: torch.ones(100 << 20, dtype=torch.uint8), before)
    if peak is None:
        pytest.skip("this system does not say what a process holds")
    assert 99.0 < peak < 110.0
    assert bench.held() < before + 10.0


def test_every_axis_is_measured_and_drawn(tmp_path):
    bench.main(["--quick", "--out", str(tmp_path / "s.json")])
    found = json.loads((tmp_path / "s.json").read_text())
    assert [(row["axis"], row[row["axis"]]) for row in found["rows"]] == [
        (axis, size) for axis, sizes in bench.SIZES.items() for size in sizes[:2]
    ]
    by_width = {row["width"]: row for row in found["rows"] if row["axis"] == "width"}
    assert by_width[32]["unknowns"] == 3 * 2 * 32 * 4 and by_width[32]["residuals"] == 2000
    assert {row["solver"] for row in found["rows"] if row["axis"] == "runs"} == {
        "kernel"
    }  # 200 residuals, 384 unknowns
    own = [row for row in found["rows"] if row["axis"] == "rank"]
    for row in found["rows"]:
        assert set(row["seconds"]) == set(bench.STEPS if row["axis"] == "runs" else bench.WAYS)
        assert all(taken > 0 for taken in row["seconds"].values())
    for name in bench.WAYS:
        slope = np.log(own[1]["seconds"][name] / own[0]["seconds"][name]) / np.log(2.0)
        assert found["exponents"]["rank"][name] == pytest.approx(slope)
    with Image.open(tmp_path / "s.png") as image:
        assert np.ptp(np.asarray(image.convert("L"))) > 100  # not a blank page


@pytest.mark.parametrize(("points", "solver"), [(50, "kernel"), (400, "cholesky")])
def test_the_row_names_the_solver_that_a_step_takes(points, solver, monkeypatch):
    """192 unknowns: more than the residuals, or fewer. The step asks for this solver and no other."""
    asked = []
    for name in ("kernel", "cholesky", "cg"):
        kind = find(solvers, solvers.Solver, name)
        at = kind.at
        monkeypatch.setattr(kind, "at", lambda *given, at=at, name=name: asked.append(name) or at(*given))
    monkeypatch.setitem(bench.FIXED, "rank", {"depth": 3, "width": 12, "points": points})
    row = bench.measure("rank", 4, 1)
    assert row["unknowns"] == 192 and row["solver"] == solver and set(asked) == {solver}


def test_deepxde_is_left_out_where_its_tape_would_not_fit(monkeypatch):
    monkeypatch.setattr(bench, "DEEPXDE_POINTS", 100)
    monkeypatch.setitem(bench.FIXED, "rank", {"depth": 3, "width": 12, "points": 101})
    rows = [bench.measure("rank", rank, 1) for rank in (2, 4)]
    assert [set(row["seconds"]) for row in rows] == [{"gradient", "step"}] * 2
