"""The benchmark of pretraining: every way is measured."""

import json

from benchmark import load

bench = load("pretraining")


def test_every_way_is_measured(tmp_path):
    bench.main(["--quick", "--out", str(tmp_path / "p.json")])
    found = json.loads((tmp_path / "p.json").read_text())
    assert [row["weights"] for row in found["weights"]] == [1.0, 10.0, 100.0, "traces"] * 3
    assert [row["weights"] for row in found["others"]] == [1.0, "traces"] * len(bench.OTHERS)
    for row in found["weights"] + found["others"]:
        assert row["errors"][0] > 0 and row["seconds"][0] > 0
        [taken] = row["taken"]
        assert len(taken) > 0 and (row["weights"] == "traces" or set(taken.values()) == {row["weights"]})
    assert len(found["float32"]) == 2
    for row in found["float32"]:
        assert row["float64"]["errors"] != row["float32"]["errors"]
    assert [row["method"] for row in found["wide"]] == ["adam-lbfgs", "full-lm"]
    for row in found["wide"]:
        assert row["relative_l2"] == row["way"][-1][1] and row["width"] == 64
