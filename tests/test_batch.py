"""The benchmark of runs made at once: that both ways end at the same losses, and that others are seen."""

import json

import pytest
from benchmark import load

bench = load("batch")


def test_every_method_is_measured(tmp_path):
    bench.main(["--quick", "--out", str(tmp_path / "b.json")])
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["method"] for row in rows] == list(bench.STEPS)
    for row in rows:
        assert row["difference"] <= bench.AGREEMENT
        for kind in ("training", "whole"):
            assert row["ratio"][kind] == pytest.approx(row["alone"][kind] / row["together"][kind])
            assert row["together"][kind] > 0.0


def test_losses_that_differ_stop_it(small_base, monkeypatch):
    together = bench.pl.together
    monkeypatch.setattr(bench.pl, "together", lambda calls: together(calls[::-1]))
    with pytest.raises(RuntimeError, match="a held-out loss differs"):
        bench.measure(small_base, "odelora-rk4", 64, 2, 2)
