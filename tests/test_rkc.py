"""Runge-Kutta-Chebyshev: its stability polynomial, the interval it promises, and what it buys on a stiff flow."""

import math

import numpy as np
import pytest
import torch

from pinn_lora import catalog, integrators
from pinn_lora.integrators import Integrator


def rkc(**options) -> Integrator:
    return catalog.build(integrators, Integrator, {"name": "rkc", **options})


class Linear:
    """dy/dt = -rates y, as a flow."""

    def __init__(self, rates: torch.Tensor) -> None:
        self.rates, self.gradients = rates, 0

    def velocity(self, theta):
        self.gradients += 1
        return float((self.rates * theta.square()).sum()) / 2, -self.rates * theta


def amplification(integrator: Integrator, z: torch.Tensor) -> torch.Tensor:
    """R(z) of one step, for many z = -h L at once."""
    return integrator.step(Linear(-z), torch.ones_like(z), 1.0).theta


@pytest.mark.parametrize("damping", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("stages", [1, 2, 3, 8, 20])
def test_a_step_is_the_shifted_chebyshev_polynomial(stages, damping):
    """T_s(w_0 + w_1 z) / T_s(w_0) by numpy's own Chebyshev class."""
    T = np.polynomial.Chebyshev.basis(stages)
    w0 = 1.0 + damping / stages**2
    w1 = T(w0) / T.deriv()(w0)
    z = np.linspace(-2.0 * stages**2, 0.5, 101)
    expected = T(w0 + w1 * z) / T(w0)
    found = amplification(rkc(stages=stages, damping=damping), torch.from_numpy(z))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("stages", [1, 2, 5, 8, 20, 50])
def test_it_is_stable_where_it_says_and_not_beyond(stages):
    """|R| <= 1 up to h L = stability; inside, damping keeps it below 1 by about damping / s^2 of T_s' ... a few percent."""
    integrator = rkc(stages=stages)
    end = integrator.stability
    assert 1.85 * stages**2 < end <= 2.0 * stages**2
    inside = amplification(integrator, -torch.linspace(1e-6, end, 4001).double())
    assert inside.abs().max() <= 1.0 + 1e-12
    assert amplification(integrator, torch.tensor([-1.05 * end], dtype=torch.float64)).abs() > 1.0


def test_one_stage_is_euler():
    y, factors = torch.tensor([[1.0, -2.0], [0.7, 0.95]], dtype=torch.float64)
    taken = rkc(stages=1).step(Linear((1.0 - factors) / 0.1), y, 0.1)
    torch.testing.assert_close(taken.theta, y * factors, rtol=1e-14, atol=0)


def test_at_equal_gradients_a_stiff_flow_is_followed_s_times_further():
    """Rates from 1 to 1,000: 160 gradients of Euler at its limit reach t = 0.32, of 16 stages, at theirs, t = 2.5 at least."""
    rates = torch.logspace(0, 3, 40, dtype=torch.float64)
    reached = {}
    for name, integrator, h in (
        ("euler", catalog.build(integrators, Integrator, "euler"), 2.0 / 1000),
        ("rkc", rkc(stages=16), rkc(stages=16).stability / 1000),
    ):
        flow, y, time = Linear(rates), torch.ones(40, dtype=torch.float64), 0.0
        while flow.gradients + getattr(integrator, "stages", 1) <= 160 if name == "rkc" else flow.gradients < 160:
            y, time = integrator.step(flow, y, h).theta, time + h
        assert y.abs().max() <= 1.0
        reached[name] = (time, float(y[0]))
    assert reached["rkc"][0] > 7.0 * reached["euler"][0]
    assert -math.log(reached["rkc"][1]) == pytest.approx(reached["rkc"][0], rel=0.25)  # order 1, with long steps
    assert reached["rkc"][1] < 0.2 < reached["euler"][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "rkc: stages is 0; it must be a whole number, at least 1"),
        ({"damping": -1.0}, "rkc: damping is -1.0; it must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rkc(**options)
