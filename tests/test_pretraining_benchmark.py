"""The benchmark of pretraining: the weights are what they say, and every way is measured."""

import json

import pytest
import torch
from benchmark import load
from pinn_lora.problems.wave import Wave

import pinn_lora as pl
from pinn_lora.lora import Blocks
from pinn_lora.points import first_points
from pinn_lora.training import network_for

bench = load("pretraining")


def test_trace_weights_give_every_condition_the_trace_of_the_residual():
    """By one Jacobian of all terms, its rows weighted: tr K_k = sum |J_k|^2 in f's own scaling by N_k."""
    problem = Wave(form="soft")
    found = bench.trace_weights(problem, seed=0, points=60)
    network = network_for(problem, seed=0)
    blocks, points = Blocks(network), first_points(problem, 60, seed=0)
    J = pl.Objective(problem, network, blocks, points, found).jacobian(blocks.read(network))[1]
    sizes = [len(points[name][0]) for name, _, _ in problem.terms()]
    traces = [float(part.square().sum()) for part in J.split(sizes)]
    assert len(traces) == 4 and min(found.values()) > 1  # an equation of second order outweighs its conditions
    assert torch.tensor(traces) == pytest.approx(traces[0], rel=1e-10)  # sums in another order


def test_every_way_is_measured(tmp_path):
    bench.main(["--quick", "--out", str(tmp_path / "p.json")])
    found = json.loads((tmp_path / "p.json").read_text())
    assert [row["weights"] for row in found["weights"]] == [1.0, 10.0, 100.0, "traces"] * 3
    assert all(row["errors"][0] > 0 and row["seconds"][0] > 0 for row in found["weights"])
    assert len(found["float32"]) == 2
    for row in found["float32"]:
        assert row["float64"]["errors"] != row["float32"]["errors"]
