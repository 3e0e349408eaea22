"""The benchmark of the Jacobian: that its ways agree, and that one that does not is seen."""

import json

import pytest
import torch
from benchmark import load

bench = load("jacobians")


def test_every_way_runs_and_the_ratio_is_the_best_peers(tmp_path):
    bench.main(["--quick", "--out", str(tmp_path / "j.json")])
    rows = json.loads((tmp_path / "j.json").read_text())["rows"]
    assert {(row["trained"], row["dtype"]) for row in rows} == {
        (name, dtype) for name in bench.TRAINED for dtype in ("float64", "float32")
    }
    for row in rows:
        times = row["milliseconds"]
        assert set(times) == {"plain", "compiled", "forward", "reverse", "jacrev"}
        peer = min(times["forward"], times["reverse"], times["jacrev"])
        assert row["times"]["plain"] == pytest.approx(peer / times["plain"])
        assert 0.0 < row["largest_relative_difference"]["reverse"] <= 2e-4  # other operations: not the same bits


def test_the_wide_network_leaves_out_the_jacobian_of_the_whole_vector():
    """4 x 64, 20 points: the ways agree there, too; compiling is not worth the wait at so few."""
    ways, unknowns = bench.ways_of((4, 64), "rank-8 factors", torch.float64, 20)
    assert unknowns == 3 * 2 * 64 * 8 and "jacrev" not in ways
    bench.differences(ways, 1e-10)


def test_a_wrong_residual_is_seen(monkeypatch):
    right = bench.Functional._residual
    monkeypatch.setattr(bench.Functional, "_residual", lambda self, u, x, t, xx: right(self, u, x, t, 1.001 * xx))
    ways, _ = bench.ways_of((3, 24), "all weights", torch.float64, 20)
    with pytest.raises(RuntimeError, match="forward differs"):
        bench.differences(ways, 1e-10)
