"""Schroedinger's equation: two of its exact solutions put into the residual, and one that the reference's solver must find."""

import dataclasses
import math

import numpy as np
import pytest
from pinn_lora.problems.schroedinger import Schroedinger

from pinn_lora.fields import Coordinates, Field
from pinn_lora.jets import Jet, cos, exp, sin
from pinn_lora.problems import schroedinger
from pinn_lora.references.spectral import Periodic, solve_periodic


def soliton(p, kappa: float):
    """a / sqrt(kappa) sech(a (x - c t)) exp(i (c x + (a^2 - c^2) t / 2))."""
    a, c = 1.3, 0.7
    s, phase = a * (p.x - c * p.t), c * p.x + 0.5 * (a**2 - c**2) * p.t
    size = 2.0 * a / math.sqrt(kappa) / (exp(s) + exp(-s))
    return size * cos(phase), size * sin(phase)


def plane_wave(p, kappa: float):
    """a exp(i (k x + (kappa a^2 - k^2 / 2) t)), of the period 10."""
    a, k = 0.8, 0.6 * math.pi
    phase = k * p.x + (kappa * a**2 - 0.5 * k**2) * p.t
    return a * cos(phase), a * sin(phase)


@pytest.mark.parametrize(("exact", "kappa"), [(soliton, 1.0), (soliton, 2.5), (plane_wave, 1.0), (plane_wave, -0.5)])
@pytest.mark.parametrize("form", ["periodic", "soft"])
def test_exact_solutions_solve_the_equation(exact, kappa, form):
    """By jets, to 1e-12 of the largest derivative: roundings."""
    problem = Schroedinger(kappa=kappa, form=form)
    indices, points = problem.needed(problem.residual), problem.domain.sample(200, seed=3)
    names = problem.domain.names
    jets = exact(Coordinates([Jet.coordinate(points, i, indices) for i in range(2)], names), kappa)
    fields = [Field(jet.data, indices, names) for jet in jets]
    largest = max(float(jet.data.abs().max()) for jet in jets)
    assert largest > 0.5
    for r in problem.residual(Coordinates.of(points, problem.domain), *fields):
        assert r.abs().max() < 1e-12 * largest


@pytest.mark.parametrize("kappa", [1.0, -0.5])
def test_the_reference_solves_the_same_equation(kappa, monkeypatch, tmp_path):
    """From a plane wave in the place of its own start, at instants that are held and between them; Runge-Kutta of order 4 in
    1,920 steps leaves 1e-10."""
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    start = lambda x: 0.8 * np.exp(0.6j * math.pi * x)  # noqa: E731

    def solve(name, parameters, equation, *, modes, steps) -> Periodic:
        return solve_periodic(name, parameters, dataclasses.replace(equation, start=start), modes=64, steps=12)

    monkeypatch.setattr(schroedinger, "solve_periodic", solve)
    found = schroedinger._solution.__wrapped__(kappa)
    x, t = np.random.default_rng(0).uniform([-5.0, 0.0], [5.0, math.pi / 2], (200, 2)).T
    k = 0.6 * math.pi
    expected = start(x) * np.exp(1j * (kappa * 0.64 - 0.5 * k**2) * t)
    np.testing.assert_allclose(found(x, t), expected, rtol=0, atol=1e-9)
