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


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("options", [{}, {"eps": 0.5}], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_damping_is_felt_by_the_singular_values_of_the_product_alone(shape, options, scale):
    """-s^2 (G V (sigma^2 + eps^2)^1/2 V^T + U sigma^2 (sigma^2 + eps^2)^-1/2 U^T G) by the SVD of B A."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    lift, r = build("refactored", options), shape[2]
    U, sigma, V = torch.linalg.svd(pair.B @ pair.A, full_matrices=False)
    U, sigma, V = U[:, :r], sigma[:r], V[:r]
    damped = (sigma**2 + lift.eps**2).sqrt()
    expected = -scale * (G @ (V.T * damped) @ V + (U * sigma**2 / damped) @ U.T @ G)
    dB, dA = lift.velocity(pair, gB, gA, None)
    assert_equal(dB @ pair.A + pair.B @ dA, expected, 1e-9)


@pytest.mark.parametrize("options", [{}, {"eps": 0.5}, EXACT], ids=str)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_step_depends_on_the_product_alone(shape, size, options):
    """At the default damping, too, and however unlike the factors' lengths are: (B X, X^-1 A) for an X of that size."""
    pair, G, gB, gA = pair_and_gradients(shape)
    X = torch.randn(shape[2], shape[2], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    X = size * (X + 3.0 * torch.eye(shape[2], dtype=torch.float64))
    other = Pair(pair.B @ X, torch.linalg.solve(X, pair.A), 1.0)
    lift = build("refactored", options)
    expected = product_jacobian(pair) @ velocity(lift, pair, gB, gA)
    assert_equal(product_jacobian(other) @ velocity(lift, other, G @ other.A.T, other.B.T @ G), expected, 1e-9)


def test_from_b_zero_it_moves_by_eps_of_full_fine_tuning():
    """dB A = -eps G P_A, in whatever factor A is written."""
    pair, G, *_ = pair_and_gradients((5, 4, 2))
    lift, X = build("refactored"), torch.tensor([[1.5, 0.5], [0.0, 0.6]]).double()
    for right in (X, X @ X):
        B, A = 0.0 * pair.B, right @ pair.A
        dB, dA = lift.velocity(Pair(B, A, 1.0), G @ A.T, B.T @ G, None)
        assert_equal(dB @ A, -lift.eps * G @ torch.linalg.pinv(A) @ A, 1e-9)
        assert not dA.any()


def test_rows_of_a_that_depend_on_others_are_no_harm():
    """A of rank 1 with two rows: the step is finite, and the loss falls along it."""
    pair, G, *_ = pair_and_gradients((5, 4, 2))
    A = torch.cat([pair.A[:1], pair.A[:1]])
    dB, dA = build("refactored").velocity(Pair(pair.B, A, 1.0), G @ A.T, pair.B.T @ G, None)
    step = dB @ A + pair.B @ dA
    assert step.isfinite().all()
    assert (G * step).sum() < 0


def test_on_the_balanced_manifold_it_is_plain_lora():
    pair, _, gB, gA = pair_and_gradients((5, 4, 2), balanced=True)
    assert_equal(velocity(build("refactored", EXACT), pair, gB, gA), -flat(gB, gA))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"refactored: eps is -1.0; it must be at least 0"):
        build("refactored", {"eps": -1.0})
