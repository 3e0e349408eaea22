"""What the benchmarks share: turns and medians, numbers that must agree, and the file."""

import json

import pytest
import torch
from benchmark import load

bench = load("side_by_side")


def test_the_ways_take_turns_and_the_second_call_of_each_turn_counts(monkeypatch):
    """A clock that each way moves on: the calls that follow another way take a hundred seconds, and none of them counts."""
    now, seen = [0.0], []
    lengths = {"slow": iter([100.0, 3.0, 100.0, 5.0, 100.0, 4.0]), "quick": iter([100.0, 1.0, 100.0, 1.0, 100.0, 2.0])}
    monkeypatch.setattr(bench.time, "process_time", lambda: now[0])

    def run(name):
        seen.append(name)
        now[0] += next(lengths[name])

    found = bench.medians({name: lambda name=name: run(name) for name in lengths}, 3)
    assert found == {"slow": 4.0, "quick": 1.0}
    assert seen == ["slow", "slow", "quick", "quick"] * 3


def test_differences_are_relative_to_the_largest_entry_of_the_first_way():
    first, other = torch.tensor([4.0, 0.0]), torch.tensor([4.0, 1e-3])
    found = bench.differences({"first": lambda: [first], "other": lambda: [other]}, 1e-3)
    assert found == {"first": 0.0, "other": pytest.approx(2.5e-4)}


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_a_way_that_differs_stops_the_benchmark_and_is_named(wrong):
    ways = {"first": lambda: [torch.ones(2)], "other": lambda: [torch.tensor([1.0, wrong])]}
    with pytest.raises(RuntimeError, match="other differs from the first way by"):
        bench.differences(ways, 1e-4)


def test_the_file_is_json_and_says_where_it_was_made(tmp_path, capsys):
    bench.write(tmp_path / "new" / "x.json", {"machine": bench.machine(), "rows": [1.5]})
    found = json.loads((tmp_path / "new" / "x.json").read_text())
    assert found["rows"] == [1.5]
    assert found["machine"]["torch"] == torch.__version__ and found["machine"]["threads"] == torch.get_num_threads()
    assert "x.json" in capsys.readouterr().out
