"""The benchmark of a step's own work: a row for every lift, and the peers' gradients beside ours."""

import json

from benchmark import load

from pinn_lora import lifts
from pinn_lora.catalog import names

bench = load("steps")


def test_every_lift_has_a_row_and_the_peers_stand_beside(tmp_path):
    bench.main(["--points", "300", "--repeats", "2", "--out", str(tmp_path / "s.json")])
    found = json.loads((tmp_path / "s.json").read_text())
    assert {row["lift"] for row in found["rows"]} == set(names(lifts))
    assert set(found["gradients"]) == {"ours", "deepxde", "nested"} and min(found["gradients"].values()) > 0
    for row in found["rows"]:
        taken = row["milliseconds"]
        assert row["share"] == taken["own"] / taken["gradient"]
        assert ("dense" in taken) == (row["metric"].get("source") == "dense")
