"""Bogacki and Shampine's pair: against SciPy's own coefficients, its cost, and its control of the step size."""

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.integrate._ivp.rk import RK23, rk_step

from pinn_lora import catalog, integrators
from pinn_lora.integrators import Integrator
from pinn_lora.integrators.bogacki_shampine import ERROR, BogackiShampine


class Relaxation:
    """dy/dt = -k (y - 1) (y + 2), a scalar flow with known behaviour, times several rates; counts its evaluations."""

    def __init__(self, *rates: float) -> None:
        self.k, self.evaluations, self.past, self._kept = torch.tensor(rates).double(), 0, None, None

    def field(self, y):
        return -self.k * (y - 1.0) * (y + 2.0)

    def velocity(self, theta):
        if self._kept is None or self._kept[0] is not theta:
            self.evaluations += 1
            self._kept = theta, self.field(theta)
        return 0.0, self._kept[1]


def follow(rule, flow, y, h, *, until):
    """To the time `until`: accepted states, sizes tried, rejected steps."""
    time, sizes, rejected = 0.0, [], 0
    while time < until:
        h = min(h, until - time)
        taken = flow.past = rule.step(flow, y, h)
        sizes.append(h)
        time, rejected = time + h * taken.accepted, rejected + (not taken.accepted)
        y, h = taken.theta, taken.next_h
    return y, sizes, rejected


def test_the_tableau_is_scipys():
    tableau = BogackiShampine.tableau
    np.testing.assert_allclose(tableau.b, RK23.B, rtol=1e-15)
    for row, expected in zip(tableau.a, RK23.A[1:], strict=True):
        np.testing.assert_allclose(row, expected[: len(row)], rtol=1e-15)
    np.testing.assert_allclose(np.abs(ERROR), np.abs(RK23.E), rtol=1e-14)
    assert sum(ERROR) == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_the_error_stays_near_the_tolerance(rtol):
    """Against SciPy at 1e-12: local errors of rtol add up to less than 30 rtol on this contracting flow."""
    flow, y = Relaxation(1.0, 5.0), torch.tensor([0.1, -1.5]).double()
    exact = solve_ivp(lambda _, y: flow.field(torch.from_numpy(y)).numpy(), (0, 2), y.numpy(), rtol=1e-12, atol=1e-13)
    for first in (1e-6, 1.0, 1e4):
        found, *_ = follow(BogackiShampine(rtol=rtol, atol=rtol), Relaxation(1.0, 5.0), y, first, until=2.0)
        assert np.abs(found.numpy() - exact.y[:, -1]).max() < 30 * rtol


def test_the_last_stage_is_the_next_steps_first():
    flow, y = Relaxation(1.0), torch.tensor([0.1]).double()
    _, sizes, rejected = follow(BogackiShampine(), flow, y, 1e-2, until=1.0)
    assert rejected == 0
    assert flow.evaluations == 3 * len(sizes) + 1


def test_a_rejected_step_stays_and_shrinks():
    flow, y = Relaxation(1.0, 100.0), torch.tensor([0.1, 0.1]).double()
    taken = BogackiShampine().step(flow, y, 10.0)
    assert not taken.accepted
    assert taken.theta is y
    assert 2.0 <= taken.next_h <= 5.0
    broken = BogackiShampine().step(Relaxation(float("nan")), torch.tensor([0.1]).double(), 1.0)
    assert not broken.accepted
    assert broken.next_h == pytest.approx(0.2)


def scipys_step(flow, y: torch.Tensor, h: float, rtol: float, atol: float) -> tuple[np.ndarray, float]:
    """Where SciPy's pair goes from y, and the root mean square of its error in units of the tolerance."""
    field = lambda t, y: flow.field(torch.from_numpy(y)).numpy()  # noqa: E731
    y, K = y.numpy(), np.empty((RK23.n_stages + 1, len(y)))
    new, _ = rk_step(field, 0.0, y, field(0.0, y), h, RK23.A, RK23.B, RK23.C, K)
    size = atol + rtol * np.maximum(np.abs(y), np.abs(new))
    return new, float(np.sqrt(np.mean((h * K.T @ RK23.E / size) ** 2)))


def test_the_next_step_size_is_the_docstrings():
    """By SciPy's errors, of a step and of one after it, over sizes that reach all limits. To 1e-6: an error of 1e-10 tolerances
    is a difference of stages of which rounding leaves as much."""
    rtol, start, met = 1e-3, torch.tensor([0.1, -1.5]).double(), set()
    for first, second in itertools.product(np.logspace(-4, 1, 11), repeat=2):
        flow, y, past = Relaxation(1.0, 5.0), start, None
        for h in (first, second):
            new, error = scipys_step(flow, y, h, rtol, rtol)
            if error <= 1.0:
                raw = 0.9 * max(error, 1e-10) ** (-0.7 / 3) * max(past or error, 1e-10) ** (0.4 / 3)
                low, high = 0.2, 5.0
            else:
                raw, low, high = 0.9 * error ** (-1 / 3), 0.2, 0.5
            taken = flow.past = BogackiShampine(rtol=rtol, atol=rtol).step(flow, y, h)
            assert taken.accepted == (error <= 1.0)
            assert taken.next_h == pytest.approx(h * min(max(raw, low), high), rel=1e-6)
            met.add((taken.accepted, "low" if raw < low else "high" if raw > high else "between"))
            if taken.accepted:
                np.testing.assert_allclose(taken.theta.numpy(), new, rtol=1e-13)
            y, past = taken.theta, error if taken.accepted else None
    assert met == set(itertools.product((True, False), ("low", "between", "high")))


def test_on_a_stiff_flow_the_step_settles_at_the_stability_limit():
    """h L stays near 2.5, the method's interval, and few steps are rejected: what control by two errors is for."""
    flow, y = Relaxation(1.0, 1000.0), torch.tensor([0.9, 0.9]).double()
    found, sizes, rejected = follow(BogackiShampine(), flow, y, 1e-4, until=1.0)
    late = np.array(sizes[len(sizes) // 2 : -1]) * 3000.0  # the fast rate is 3 k at y = 1
    assert 1.5 < np.median(late) < 3.5
    assert rejected < 0.1 * len(sizes)
    assert abs(float(found[1]) - 1.0) < 1e-2


@pytest.mark.parametrize("options", [{"rtol": 0.0}, {"atol": -1e-6}], ids=str)
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"bogacki_shampine: {name} is {options[name]}; it must be above 0 and finite"):
        catalog.build(integrators, Integrator, {"name": "bogacki_shampine", **options})
