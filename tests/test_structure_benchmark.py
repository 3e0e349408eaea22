"""The benchmark of structure: every choice has a row, and a choice's place counts those that did better."""

import json

from benchmark import load

bench = load("structure")


def test_a_place_counts_what_did_better_with_that_seed():
    reached = {"a": [3.0, 1.0], "b": [2.0, 2.0], "c": [1.0, 3.0]}
    assert [bench.place("a", reached, seed) for seed in (0, 1)] == [3, 1]
    assert [bench.place("c", reached, seed) for seed in (0, 1)] == [1, 3]


def test_every_two_layers_have_a_row_and_the_selected_ones_are_among_them(tmp_path):
    bench.main(["--quick", "--only", "layers", "--out", str(tmp_path / "s.json")])
    rows = json.loads((tmp_path / "s.json").read_text())["layers"]
    for nu in bench.FAR:
        *choices, selected = [row for row in rows if row["nu"] == nu]
        by_name = {row["name"]: row["relative_l2"] for row in choices}
        assert len(by_name) == selected["of"] == 6
        assert selected["relative_l2"] == by_name[selected["chosen"][0]]
        assert selected["place"] == [1 + sum(error < selected["relative_l2"] for error in by_name.values())]
