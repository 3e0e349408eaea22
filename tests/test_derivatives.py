"""The benchmark of the loss and its gradient, small: that all columns agree on every equation, and what a row says."""

import json
import sys

import pytest
import torch
from benchmark import load

bench = load("derivatives")
SMALL = (2, 8, 50)  # too few points to compile for


@pytest.fixture(scope="module")
def jax():
    with bench.one_core():
        return bench.load()  # None where it is not installed: then these tests are of the other columns


@pytest.mark.parametrize("equation", bench.EQUATIONS, ids=lambda equation: equation.name)
def test_all_columns_agree(equation, jax):
    """Five implementations of one number, two of them hand-derived or traced; float64, relative to the largest entry."""
    factors = equation is bench.BURGERS
    ways, _ = bench.ways_of(bench.Case(equation, SMALL, factors, torch.float64), jax)
    assert max(bench.differences(ways, 1e-12).values()) > 0.0
    assert len(ways) == (4 if jax is None else 6)


def test_a_row_has_its_ratios_and_the_aims_that_it_misses(jax, monkeypatch):
    milliseconds = {"deepxde": 4.0, "nested": 4.0, "jax, jvp": 3.0, "jax, reverse": 1.9, "plain": 4.0, "compiled": 2.0}
    monkeypatch.setattr(bench, "medians", lambda ways, *_, **__: {name: 1e-3 * milliseconds[name] for name in ways})
    row = bench.measure(bench.Case(bench.BURGERS, SMALL, False, torch.float32), 1, jax)
    assert row["times_as_fast"]["compiled, deepxde"] == 2.0 and "plain, deepxde" in row["missed"]
    if jax is not None:
        assert row["milliseconds"]["jax"] == pytest.approx(1.9)  # the quicker of the two
        assert row["times_as_fast"]["compiled, jax"] == pytest.approx(0.95) and "compiled, jax" in row["missed"]


def test_the_aims_of_the_page():
    aims = lambda size, factors, dtype: bench.Case(bench.BURGERS, size, factors, dtype).aims  # noqa: E731
    assert aims((4, 64, 10_240), False, torch.float32) == {
        "plain, deepxde": 1.3,
        "compiled, jax": 1.5,
        "compiled, deepxde": 2.3,
    }
    assert aims((4, 64, 10_240), True, torch.float64)["compiled, deepxde"] == 3.0
    assert aims((3, 32, 2_560), True, torch.float64) == {
        "plain, deepxde": 1.3,
        "compiled, jax": 1.0,
        "compiled, deepxde": 2.5,
    }


def test_a_quick_run_writes_every_equation_and_says_when_jax_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "MAIN", SMALL)
    monkeypatch.setitem(sys.modules, "jax", None)
    bench.main(["--quick", "--repeats", "1", "--out", str(tmp_path / "d.json")])
    found = json.loads((tmp_path / "d.json").read_text())
    assert [(row["equation"], row["dtype"]) for row in found["rows"]] == [
        (name, dtype) for dtype in ("float32", "float64") for name in ("Burgers", "Allen-Cahn", "Helmholtz")
    ]
    assert not any("jax" in name for row in found["rows"] for name in row["milliseconds"])
    assert capsys.readouterr().out.count("JAX is not installed") == 1
