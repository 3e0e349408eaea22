"""The benchmark against DeepXDE, shortened: its twin of our set-up, its clock, and that every way runs and is kept."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora.dde.load import load_deepxde
from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective

load_deepxde()  # before the benchmark imports it
_path = Path(__file__).resolve().parents[1] / "benchmarks" / "against_deepxde.py"
_spec = importlib.util.spec_from_file_location("against_deepxde", _path)
assert _spec and _spec.loader
bench = sys.modules["against_deepxde"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)

PROBLEM = Burgers(nu=0.1)
# NNCG asks torch for a float of what has a gradient
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")


@pytest.fixture(scope="module")
def base():
    return pl.pretrain(Burgers(nu=0.2), max_steps=3, points=100)


def test_the_twin_in_deepxde_is_the_base_and_has_its_residual(base):
    """Values and residuals of two implementations, automatic differentiation against jets, in float64: 1e-12 of their size."""
    points = PROBLEM.domain.sample(64, seed=3)
    with bench.precision("float64"):
        model = bench.like_ours(PROBLEM, 50, base)
        model.compile("adam", lr=1e-3, verbose=0)
        found = model.predict(points.numpy()), model.predict(points.numpy(), operator=model.data.pde)
    expected = pl.Solution(PROBLEM, base.network)
    np.testing.assert_allclose(found[0], expected.predict(points.numpy()), rtol=0, atol=1e-12)
    blocks = Blocks(base.network)
    objective = Objective(PROBLEM, base.network, blocks, {"residual": (points,)})
    sizes = objective.pointwise(blocks.read(base.network)).numpy()
    np.testing.assert_allclose(np.abs(found[1][:, 0]), sizes, rtol=1e-10, atol=1e-11)


def test_added_points_follow_the_residual():
    """Among those drawn the mean residual is above that of all candidates, and they stand beside the first ones."""
    with bench.precision("float64"):
        model = bench.like_ours(PROBLEM, 50)
        model.compile("adam", lr=1e-3, verbose=0)
        size = lambda x: np.abs(model.predict(x, operator=model.data.pde)).mean()  # noqa: E731
        bench.add_points(model, 300, seed=1)
        assert model.data.train_x.shape == (350, 2)
        assert size(model.data.train_x[:300]) > 1.1 * size(PROBLEM.domain.sample(2000, seed=9).numpy())


def test_lbfgs_takes_the_iterations_that_it_is_given(monkeypatch):
    """Not DeepXDE's 1,000 a step; and the clock stands while an error is recorded, here for a hundred seconds each time."""
    now = [0.0]
    monkeypatch.setattr(bench, "seconds", lambda device: now[0])

    def late(found, reference):
        now[0] += 100.0
        return 0.5

    monkeypatch.setattr(bench, "relative_error", late)
    with bench.precision("float64"):
        model = bench.like_ours(PROBLEM, 50)
        model.phase("L-BFGS", 12, 5)
    assert 12 <= model.train_state.iteration <= 15, "whole calls of five"
    assert [second for second, _ in model.trace] == [0.0] * len(model.trace) and model.spent == 0.0


def test_a_phase_ends_with_its_seconds(monkeypatch):
    now = [0.0]

    def tick(device):
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(bench, "seconds", tick)
    with bench.precision("float64"):
        model = bench.like_ours(PROBLEM, 50)
        model.phase("adam", 100, 1, most=5.0, lr=1e-3)
    assert model.train_state.iteration == 4 and model.trace[-1][0] == 5.0


def test_time_to_an_error_is_the_first_record_at_or_below_it():
    trace = [(0.0, 1.0), (1.0, 2e-3), (2.0, 1e-3), (3.0, 5e-3), (4.0, 1e-5)]
    assert (
        bench.time_to(1e-3, trace) == 2.0 and bench.time_to(1e-4, trace) == 4.0 and bench.time_to(1e-6, trace) is None
    )


def test_every_way_runs_and_is_kept(tmp_path, capsys):
    out, state = tmp_path / "x.json", (torch.get_default_dtype(), bench.dde.config.real.precision)
    options = dict(bench.dde.optimizers.LBFGS_options), dict(bench.dde.optimizers.NNCG_options)
    bench.main(["--quick", "--out", str(out)])
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    rows = record["rows"]
    assert {(row["dtype"], row["way"]) for row in rows} == {(d, w) for d in ("float64", "float32") for w in bench.WAYS}
    for row in rows:
        times = [second for second, _ in row["trace"]]
        assert times == sorted(times) and row["seconds"] == times[-1] > 0 and math.isfinite(row["relative_l2"])
        if "from the base" in row["way"] or "adapted" in row["way"]:
            assert row["trace"][0][1] == pytest.approx(
                row["zero_shot"], rel=1e-10 if row["dtype"] == "float64" else 1e-4
            )
        assert f"{row['relative_l2']:.1e}" in printed
    assert state == (torch.get_default_dtype(), bench.dde.config.real.precision)
    assert options == (bench.dde.optimizers.LBFGS_options, bench.dde.optimizers.NNCG_options)
    stamp = out.read_bytes()
    bench.main(["--quick", "--out", str(out)])
    assert out.read_bytes() == stamp and capsys.readouterr().out == printed, "nothing is made twice"
    with pytest.raises(SystemExit):
        bench.main(["--out", str(out)])
    assert "holds rows of another length" in capsys.readouterr().err and out.read_bytes() == stamp
