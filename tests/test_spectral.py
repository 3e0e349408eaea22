"""Fourier references: the scheme's order, aliasing, kinks, instants between those that are held, and what is kept on disk."""

import dataclasses
import math

import numpy as np
import pytest

from pinn_lora.references import spectral
from pinn_lora.references.spectral import Equation, Scheme, phi, solve_periodic

HEAT = Equation(
    symbol=lambda k: k**2,
    nonlinear=lambda u: 0 * u,
    degree=1,
    start=np.sin,
    lower=0.0,
    length=2 * np.pi,
    end=1.0,
)


def march(linear, nonlinear, start, end: float, steps: int) -> np.ndarray:
    scheme, v = Scheme(np.asarray(linear), end / steps), np.asarray(start, dtype=complex)
    for _ in range(steps):
        v = scheme.step(v, nonlinear)
    return v


@pytest.mark.parametrize("z", [0.0, 1e-9, 0.5, -0.9999, 1.0001, -30.0, 20j, 0.7 + 0.7j, 0.8 - 0.8j])
def test_phi_functions_are_their_integrals(z):
    """phi_k(z) = int_0^1 e^((1 - s) z) s^(k - 1) / (k - 1)! ds by Gauss-Legendre with 60 nodes; 1e-15 of roundings, ten of
    which the integrals have themselves."""
    s, w = np.polynomial.legendre.leggauss(60)
    s, w = 0.5 * (s + 1.0), 0.5 * w
    for k, found in enumerate(phi(np.array([complex(z)])), start=1):
        expected = np.sum(w * np.exp((1 - s) * z) * s ** (k - 1)) / math.factorial(k - 1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rate", [-50.0 + 0j, 50j], ids=["damped", "undamped"])
def test_a_step_is_of_order_4_on_a_stiff_nonlinear_equation(rate):
    """v' = a v + v^2, v(0) = 1: v = a / ((a + 1) e^(-a t) - 1); errors at t = 0.1 fall by 16 a halving."""
    exact = rate / ((rate + 1.0) * np.exp(-0.1 * rate) - 1.0)
    errors = [abs(march([rate], lambda v: v**2, [1.0], 0.1, steps)[0] - exact) for steps in (16, 32, 64)]
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (np.abs(orders - 4.0) < 0.3).all()


def test_a_linear_equation_is_exact_at_any_step():
    """Heat and transport: every mode times exp(symbol t)."""
    k = 1j * np.fft.fftfreq(16, 1 / 16)
    linear, start = 0.3 * k**2 - 2.0 * k, np.fft.fft(np.exp(np.sin(2 * np.pi * np.arange(16) / 16)))
    found = march(linear, lambda v: 0 * v, start, 2.0, 4)
    np.testing.assert_allclose(found, np.exp(2.0 * linear) * start, rtol=0, atol=1e-12 * np.abs(start).max())


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("real", [True, False])
def test_powers_are_without_aliasing(degree, real):
    """The spectrum of u^2 and u^3 for random coefficients is the coefficients' convolution, up to roundings."""
    equation = dataclasses.replace(
        HEAT, nonlinear=lambda u: u**degree, degree=degree, start=np.sin if real else lambda x: np.exp(1j * x)
    )
    modes, generator = 24 * (degree + 1), np.random.default_rng(degree)
    count = spectral._free(modes, equation)
    numbers = equation.numbers(count)
    v = generator.normal(size=len(numbers)) + 1j * generator.normal(size=len(numbers))
    if real:
        v[0] = v[0].real
        line = np.concatenate([v[:0:-1].conj(), v])
    else:
        line = v[np.argsort(numbers)]
    power = line
    for _ in range(degree - 1):
        power = np.convolve(power, line)
    expected = power[numbers + degree * (count - 1)]
    np.testing.assert_allclose(equation.rate(modes, count)(v), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def kinked(D: float, decay: float) -> Equation:
    """u_t = D u_xx - decay u from x^2 cos(pi x) on [-1, 1], whose slope jumps at the period's ends; the decay is N(u)."""
    return Equation(
        symbol=lambda k: D * k**2,
        nonlinear=lambda u: -decay * u,
        degree=1,
        start=lambda x: x**2 * np.cos(np.pi * x),
        lower=-1.0,
        length=2.0,
        end=1.0,
    )


def coefficients(numbers: np.ndarray) -> np.ndarray:
    """Those of x^2 cos(pi x), exp(i pi n (x + 1)): (g(n + 1) + g(n - 1)) / 2 with g(m) = int_0^1 x^2 cos(pi m x) dx."""
    g = lambda m: np.where(m == 0, 1 / 3, 2.0 * (-1.0) ** m / (np.pi * np.where(m == 0, 1, m)) ** 2)  # noqa: E731
    return 0.5 * (-1.0) ** numbers * (g(numbers + 1) + g(numbers - 1))


def test_a_kinks_coefficients_are_right_to_roundings():
    """Extrapolated sums against the integrals: 1e-12 for the modes that are solved for, whose sums alone err by 1e-11."""
    numbers = np.arange(2048)
    found = kinked(1e-4, 0.0).start_spectrum[numbers]
    np.testing.assert_allclose(found, coefficients(numbers), rtol=0, atol=1e-15)


def test_a_kink_is_right_from_the_first_instant_on(tmp_path, monkeypatch):
    """Against the series with 2^16 modes, every one times exp(-(D pi^2 n^2 + decay) t), at the kink and beside it; 256 modes
    alone would be off by 1e-3 there. At the start: the start itself."""
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    D, decay = 1e-2, 3.0
    solution = solve_periodic("kinked", {"D": D}, kinked(D, decay), modes=512, steps=16)
    x, n = np.array([-1.0, 1.0, 0.9995, -0.98, 0.3]), np.arange(2**16)
    waves = np.cos(np.pi * np.outer(x + 1.0, n)) * np.where(n > 0, 2.0, 1.0)
    for t in (1e-7, 1e-5, 4e-4, 1 / 160, 0.0123, 0.5, 1.0):
        expected = waves @ (coefficients(n) * np.exp(-(D * (np.pi * n) ** 2 + decay) * t))
        np.testing.assert_allclose(solution(x, np.full(5, t)), expected, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(solution(x, np.zeros(5)), kinked(D, decay).begins(x))


def soliton(x, t):
    """i h_t + h_xx / 2 + |h|^2 h = 0: sech(2 (x - 3 t)) moving, on a period of 40 that it does not feel before 1e-17."""
    return 2.0 / np.cosh(2.0 * (x - 3.0 * t)) * np.exp(1j * (3.0 * x + (4.0 - 9.0) * t / 2))


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINN_LORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        equation = Equation(
            symbol=lambda k: 0.5j * k**2,
            nonlinear=lambda h: 1j * np.abs(h) ** 2 * h,
            degree=3,
            start=lambda x: soliton(x, 0.0),
            lower=-20.0,
            length=40.0,
            end=1.0,
        )
        yield solve_periodic("soliton", {}, equation, modes=1024, steps=8)


def test_a_soliton_is_right_at_all_instants_and_within_the_stated_error(moving):
    """At held instants, between them, and at the ends, 300 points; order 4 in 1,280 steps leaves some 1e-8, and half
    the modes, which the bound comes from, 1e-6."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-8, 8, 300)
    t = np.concatenate([generator.random(250), np.arange(45) / 160, [0.0, 1.0, 1e-9, 0.99999, 0.5]])
    expected = soliton(x, t)
    error = np.linalg.norm(moving(x, t) - expected) / np.linalg.norm(expected)
    assert error < 1e-7
    assert error < moving.error < 1e-5


def test_a_value_does_not_depend_on_what_else_is_asked_for(moving):
    """Together and one by one, in any order, and where the table of waves is too large to share."""
    generator = np.random.default_rng(1)
    x, t = generator.uniform(-8, 8, 30), generator.choice(np.concatenate([generator.random(9), [0.0, 0.25]]), 30)
    together = moving(x, t)
    alone = np.array([moving(x[i : i + 1], t[i : i + 1])[0] for i in range(30)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-14)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectral, "WAVES", 1000)
        np.testing.assert_allclose(moving(x, t), together, rtol=0, atol=1e-14)


def heat(name="heat", factor=1.0, **changed):
    equation = dataclasses.replace(HEAT, **{"symbol": lambda k: factor * k**2, **changed})
    return solve_periodic(name, {"factor": factor}, equation, modes=32, steps=2)


def test_a_solution_is_kept_and_found_again_by_what_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    first = heat()
    assert len(list(tmp_path.iterdir())) == 1
    assert first.error < 1e-11
    x = np.linspace(0, 6, 20)
    np.testing.assert_allclose(first(x, np.full(20, 0.7)), math.exp(-0.7) * np.sin(x), rtol=0, atol=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectral, "_solve", None)  # not called: read from disk
        again = heat()
    assert np.array_equal(again.spectra, first.spectra)
    assert again.error == first.error
    heat(factor=2.0)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(spectral, "VERSION", -1)
    heat()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_solution_that_blows_up_is_refused_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="heat: the reference does not stay finite at"):
        heat(factor=-1e6)
    assert not list(tmp_path.iterdir())


def test_a_solution_that_its_modes_do_not_resolve_is_refused_with_its_error(tmp_path, monkeypatch):
    """Transport of a kink in 16 modes: nothing damps what is left out."""
    monkeypatch.setenv("PINN_LORA_CACHE", str(tmp_path))
    equation = dataclasses.replace(kinked(0.0, 0.0), symbol=lambda k: -1.0 * k)
    for _ in range(2):  # from disk, too
        with pytest.raises(ValueError, match=r"rough: at c = 1 the reference may err by .e-0. \(relative L2\)"):
            solve_periodic("rough", {"c": 1.0}, equation, modes=32, steps=2)
