"""Fourier references: ETDRK4's order, interpolation between its instants, and what is kept on disk."""

import math

import numpy as np
import pytest

from pinn_lora.references.spectral import Periodic, etdrk4, solve_periodic


def test_etdrk4_is_of_order_4_on_a_stiff_nonlinear_equation():
    """v' = -50 v + v^2, v(0) = 1: v = 50 / (1 + 49 e^(50 t)); errors at t = 0.1 fall by 16 a halving."""
    exact = 50.0 / (1.0 + 49.0 * math.exp(5.0))
    errors = []
    for steps in (8, 16, 32):
        found = etdrk4(np.array([-50.0 + 0j]), lambda v: v**2, np.array([1.0 + 0j]), end=0.1, steps=steps, held=1)
        errors.append(abs(found[-1, 0] - exact))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (np.abs(orders - 4.0) < 0.3).all()


def test_a_linear_equation_is_exact_at_any_step():
    """Heat and transport: every mode times exp(symbol t)."""
    k = 1j * np.fft.fftfreq(16, 1 / 16)
    linear, start = 0.3 * k**2 - 2.0 * k, np.fft.fft(np.exp(np.sin(2 * np.pi * np.arange(16) / 16)))
    found = etdrk4(linear, lambda v: 0 * v, start, end=2.0, steps=4, held=4)
    np.testing.assert_allclose(found[-1], np.exp(2.0 * linear) * start, rtol=0, atol=1e-12 * np.abs(start).max())
    with pytest.raises(ValueError, match="steps is 5; it must be a multiple of the 4 intervals that are held"):
        etdrk4(linear, lambda v: 0 * v, start, end=2.0, steps=5, held=4)


def test_values_between_instants_and_grid_points():
    """A travelling wave exp(sin(x - t)) from its coefficients at 401 instants."""
    x, times = 2 * np.pi * np.arange(64) / 64, np.linspace(0.0, 1.0, 401)
    spectra = np.array([np.fft.fft(np.exp(np.sin(x - t))) / 64 for t in times])
    wave = Periodic(0.0, 2 * np.pi, 1.0, spectra, 0.0)
    generator = np.random.default_rng(0)
    x, t = generator.uniform(0, 2 * np.pi, 300), np.concatenate([generator.random(296), [0.0, 1.0, 1e-9, 0.99999]])
    found = wave(x, t)
    np.testing.assert_allclose(found.real, np.exp(np.sin(x - t)), rtol=0, atol=1e-12)
    assert np.abs(found.imag).max() < 1e-12


def heat(name="heat", factor=1.0, **changed):
    options = {
        "symbol": lambda k: factor * k**2,
        "nonlinear": lambda u, k: 0 * u,
        "start": np.sin,
        "lower": 0.0,
        "length": 2 * np.pi,
        "end": 1.0,
        "modes": 32,
        "steps": 800,
    }
    return solve_periodic(name, {"factor": factor}, **{**options, **changed})


def test_a_solution_is_kept_and_found_again_by_what_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    first = heat()
    assert len(list(tmp_path.iterdir())) == 1
    assert first.error < 1e-12
    x = np.linspace(0, 6, 20)
    np.testing.assert_allclose(first(x, np.full(20, 0.7)).real, math.exp(-0.7) * np.sin(x), rtol=0, atol=1e-12)
    again = heat(nonlinear=None)  # not called: read from disk
    assert np.array_equal(again.spectra, first.spectra)
    assert again.error == first.error
    heat(factor=2.0)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_solution_that_blows_up_is_refused_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="heat: the reference does not stay finite at"):
        heat(factor=-1e6)
    assert not list(tmp_path.iterdir())
