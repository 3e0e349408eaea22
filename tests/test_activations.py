"""Activations and their derivatives against autograd."""

import pytest
import torch

from pinn_lora.activations import ACTIVATIONS

ORDER = 5  # the fourth derivative's adjoint


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("known", [False, True])
def test_derivatives_are_autograds(name, known):
    """To 1e-11: the fifth derivatives are below 30, and autograd's nested products lose some digits."""
    phi = ACTIVATIONS[name]
    u = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64).requires_grad_()
    expected = [phi.function(u)]
    for _ in range(ORDER):
        expected.append(torch.autograd.grad(expected[-1].sum(), u, create_graph=True)[0])
    found = phi.derivatives(u.detach(), ORDER, expected[0].detach() if known else None)
    assert len(found) == ORDER + 1
    for k in range(ORDER + 1):
        torch.testing.assert_close(found[k], expected[k].detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("order", range(ORDER))
def test_fewer_derivatives_are_the_first_of_more(name, order):
    u = torch.linspace(-3.0, 3.0, 17, dtype=torch.float64)
    found, more = (ACTIVATIONS[name].derivatives(u, k) for k in (order, ORDER))
    assert len(found) == order + 1
    for a, b in zip(found, more, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_values_stay_finite(name):
    u = torch.tensor([-800.0, 800.0], dtype=torch.float64)
    for value in ACTIVATIONS[name].derivatives(u, ORDER):
        assert value.isfinite().all()
