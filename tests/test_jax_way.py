"""The JAX column: nothing of the process stays changed, and without JAX it is left out."""

import os
import sys

import pytest
import torch
from benchmark import load

from pinn_lora.networks.mlp import MLP
from pinn_lora.networks.pirate_net import PirateNet

bench = load("jax_way")
equation = load("equations").BURGERS


def test_without_jax_there_is_no_column(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)  # as where it is not installed: importing it raises ImportError
    before = dict(os.environ)
    assert bench.load() is None
    assert dict(os.environ) == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose its cores")
def test_one_core_is_one_core_and_ends():
    before = os.sched_getaffinity(0)
    with bench.one_core() as held:
        assert held and len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_chunks_add_up_to_the_whole(monkeypatch):
    """Sums in another order, float64."""
    pytest.importorskip("jax")
    monkeypatch.setattr(bench, "CHUNK", 10)
    network, points = MLP(equation.problem.domain, width=4, depth=1), equation.problem.domain.sample(30)
    with bench.one_core():
        ways = bench.jax_ways(bench.load(), equation, network, points)
    assert len(load("side_by_side").differences(ways, 1e-13)) == 4


def test_float64_is_for_the_ways_alone_and_the_environment_stays():
    pytest.importorskip("jax")
    before = dict(os.environ)
    with bench.one_core():
        jax = bench.load()
    network, points = MLP(equation.problem.domain, width=8, depth=2), equation.problem.domain.sample(10)
    assert bench.jax_ways(jax, equation, network, points)["jvp"]()[1].dtype == torch.float64
    assert jax.numpy.ones(1).dtype == jax.numpy.float32 and dict(os.environ) == before


def test_other_networks_are_refused():
    jax = pytest.importorskip("jax")
    domain = equation.problem.domain
    for network in (PirateNet(domain), MLP(domain, periodic=("x",)), MLP(domain, fourier=4)):
        with pytest.raises(ValueError, match="an MLP with plain coordinates"):
            bench.jax_ways(jax, equation, network, domain.sample(10))
