"""RefLoRA's lift: the gradient in the balanced factorisation, whatever factorisation it is asked in."""

import pytest
import torch
from lift_oracles import SCALES, SHAPES, assert_equal, build, flat, pair_and_gradients, product_jacobian, velocity

from pinn_lora.lifts import Pair

EXACT = {"eps": 0.0}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_t_is_the_geometric_mean(shape):
    """T S T = K, T symmetric and positive; its inverse is its inverse."""
    pair, *_ = pair_and_gradients(shape)
    T, inverse = build("refactored", EXACT)._means(pair)
    assert_equal(T @ pair.S @ T, pair.K)
    assert_equal(T @ inverse, torch.eye(len(T), dtype=torch.float64))
    assert torch.equal(T, T.T)
    assert torch.linalg.eigvalsh(T)[0] > 0


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_plain_gradient_descent_in_the_balanced_factorisation(shape, scale):
    """By the singular values of B A: B' = U sigma^1/2, A' = sigma^1/2 V^T have one Gram matrix; steps there give this one."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    r = shape[2]
    U, sigma, V = torch.linalg.svd(pair.B @ pair.A, full_matrices=False)
    B, A = U[:, :r] * sigma[:r].sqrt(), sigma[:r].sqrt()[:, None] * V[:r]
    expected = -scale * (G @ A.T @ A + B @ B.T @ G)
    dB, dA = build("refactored", EXACT).velocity(pair, gB, gA, None)
    assert_equal(dB @ pair.A + pair.B @ dA, expected, 1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_step_depends_on_the_product_alone(shape):
    pair, G, gB, gA = pair_and_gradients(shape)
    X = torch.randn(shape[2], shape[2], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    X = X + 3.0 * torch.eye(shape[2], dtype=torch.float64)
    other = Pair(pair.B @ X, torch.linalg.solve(X, pair.A), 1.0)
    lift = build("refactored", EXACT)
    expected = product_jacobian(pair) @ velocity(lift, pair, gB, gA)
    assert_equal(product_jacobian(other) @ velocity(lift, other, G @ other.A.T, other.B.T @ G), expected, 1e-9)


def test_on_the_balanced_manifold_it_is_plain_lora():
    pair, _, gB, gA = pair_and_gradients((5, 4, 2), balanced=True)
    assert_equal(velocity(build("refactored", EXACT), pair, gB, gA), -flat(gB, gA))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"refactored: eps is -1.0; it must be at least 0"):
        build("refactored", {"eps": -1.0})
