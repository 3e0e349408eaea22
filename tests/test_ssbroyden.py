"""Self-scaled Broyden against its dense formulas written out, and its line search."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import rosen, rosen_der
from small_objective import objective_of, started

from pinn_lora.optimizers.ssbroyden import SSBroyden
from pinn_lora.wolfe import evaluate, strong_wolfe


class Valley:
    """Rosenbrock's function in any number of unknowns."""

    def __init__(self) -> None:
        self.evaluations = 0

    def gradient(self, theta):
        self.evaluations += 1
        x = theta.numpy()
        return float(rosen(x)), torch.from_numpy(rosen_der(x))


def written_out(H, s, y, alpha_g, variant):
    """The article's formulas with numpy; alpha_g = alpha g at the step's start, so that H^-1 s = -alpha_g."""
    N, rho = len(s), 1.0 / (y @ s)
    h, b = (y @ H @ y) * rho, -(s @ alpha_g) * rho
    a = h * b - 1.0
    if variant == "bfgs":
        tau, theta = min(1.0, 1.0 / b), 0.0
    else:
        c = math.sqrt(abs(a) / (1.0 + a))
        rho_minus = min(1.0, h * (1.0 - c))
        theta_minus = (rho_minus - 1.0) / a
        theta = max(theta_minus, min(1.0 / rho_minus, (1.0 - b) / b))
        sigma = 1.0 + a * theta
        q, r = abs(sigma) ** (1.0 / (1.0 - N)), min(1.0, 1.0 / b)
        tau = min(r * q, sigma) if theta <= 0 else r * min(q, 1.0 / theta)
    phi = (1.0 - theta) / (1.0 + a * theta)
    v = s * rho - H @ y / (y @ H @ y)
    inner = H - np.outer(H @ y, H @ y) / (y @ H @ y) + phi * (y @ H @ y) * np.outer(v, v)
    return inner / tau + rho * np.outer(s, s)


@pytest.mark.parametrize("variant", ["broyden", "bfgs"])
def test_the_inverse_hessian_is_the_published_codes(variant):
    """From H = I on, the first update included (its initial_scale = False, which all of its examples take)."""
    objective, size = Valley(), 6
    theta = torch.linspace(-1.0, 1.5, size, dtype=torch.float64)
    run = SSBroyden(variant=variant).start(None, theta, step_size=1.0, max_steps=99)
    H = np.eye(size)
    for _ in range(12):
        g = objective.gradient(theta)[1].numpy()
        new = run.step(objective, theta).theta
        s, y = (new - theta).numpy(), objective.gradient(new)[1].numpy() - g
        alpha_g = (np.linalg.norm(s) / np.linalg.norm(H @ g)) * g
        H = written_out(H, s, y, alpha_g, variant)
        np.testing.assert_allclose(run.H.numpy(), H, rtol=1e-7, atol=1e-9 * np.abs(H).max())
        np.testing.assert_allclose(H @ y, s, rtol=1e-6, atol=1e-9)  # the secant equation
        theta = new


@pytest.mark.parametrize("variant", ["broyden", "bfgs"])
def test_it_finds_the_minimum_of_a_curved_valley(variant):
    objective, theta = Valley(), torch.full((10,), -0.7, dtype=torch.float64)
    run = SSBroyden(variant=variant).start(None, theta, step_size=1.0, max_steps=999)
    for _ in range(300):
        taken = run.step(objective, theta)
        theta = taken.theta
        if taken.finished:
            break
    assert taken.finished
    assert (theta - 1.0).abs().max() < 1e-6
    assert objective.evaluations < 600


def test_on_a_quadratic_it_ends_in_about_as_many_steps_as_unknowns():
    """BFGS with exact line searches takes N; the Wolfe line search a few more."""

    class Quadratic:
        c = torch.logspace(0, 2, 8, dtype=torch.float64)

        def gradient(self, theta):
            return float((self.c * (theta - 1.0).square()).sum()), 2.0 * self.c * (theta - 1.0)

    objective, theta = Quadratic(), torch.zeros(8, dtype=torch.float64)
    run = SSBroyden().start(None, theta, step_size=1.0, max_steps=99)
    for _ in range(40):
        theta = run.step(objective, theta).theta
    assert (theta - 1.0).abs().max() < 1e-7


def test_the_line_search_ends_at_a_place_of_the_strong_wolfe_conditions():
    objective = objective_of(form="soft")
    theta = objective.blocks.read(objective.network)
    start = evaluate(objective, theta)
    for size in (1e-2, 1.0, 100.0):
        direction = -size * start.gradient
        found = strong_wolfe(objective, start, direction)
        t = float((found.theta - theta) @ direction / (direction @ direction))
        slope = float(start.gradient @ direction)
        assert found.value <= start.value + 1e-4 * t * slope
        assert abs(float(found.gradient @ direction)) <= 0.9 * abs(slope)
        assert found.value == pytest.approx(objective.value(found.theta), rel=1e-12)
    assert strong_wolfe(objective, start, start.gradient) is None, "uphill"


def test_new_points_keep_the_inverse_hessian_and_take_the_loss_anew():
    objective = objective_of()
    run, theta = started(SSBroyden(), objective, step_size=1.0, max_steps=99)
    for _ in range(5):
        theta = run.step(objective, theta).theta
    held = run.H.clone()
    other = objective_of(seed=9)
    moved = objective.with_points(other.points)
    taken = run.step(moved, theta)
    assert taken.value == pytest.approx(moved.value(theta), rel=1e-12)
    assert taken.value != pytest.approx(objective.value(theta), rel=1e-6)
    assert not torch.equal(run.H, held)
    assert moved.value(taken.theta) < taken.value


def test_too_many_unknowns_are_refused(monkeypatch):
    monkeypatch.setattr("pinn_lora.memory.available_mib", lambda device: 1.0)
    with pytest.raises(MemoryError, match=r"inverse Hessian of 1,000 unknowns takes .* take|train fewer unknowns"):
        SSBroyden().start(None, torch.zeros(1000), step_size=1.0, max_steps=9)
