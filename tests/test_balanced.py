"""The balanced lift, ODELoRA's, against damped and minimum-norm least squares, and what it equals at its ends."""

import pytest
import torch
from lift_oracles import (
    SCALES,
    SHAPES,
    assert_equal,
    build,
    flat,
    pair_and_gradients,
    plain,
    product_jacobian,
    velocity,
)
from scipy.linalg import solve_sylvester

from pinn_lora.lifts import relative_damping


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("eps", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_balanced_is_damped_least_squares(shape, eps, scale):
    """min |s J v + vec G|^2 + s^2 lam |v|^2, by QR of the stacked matrix: no normal equations, no digits lost."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    J, lam = product_jacobian(pair), relative_damping(pair, eps)
    eye = torch.eye(J.shape[1], dtype=torch.float64)
    stacked = scale * torch.cat([J, lam.sqrt() * eye])
    target = -flat(G, torch.zeros(J.shape[1], dtype=torch.float64))
    expected = torch.linalg.lstsq(stacked, target[:, None]).solution[:, 0]
    assert_equal(velocity(build("balanced", {"eps": eps}), pair, gB, gA), expected)
    torch.testing.assert_close(
        build("balanced", {"eps": eps}).mass(pair, plain(pair)).matrix,
        scale**2 * (J.T @ J + lam * eye),
        rtol=0,
        atol=1e-11 * scale**2,
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_balanced_without_damping_is_the_minimum_norm_solution(shape, scale):
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    J = scale * product_jacobian(pair)
    expected = -torch.linalg.pinv(J, rtol=1e-12) @ G.reshape(-1)
    assert_equal(velocity(build("balanced", {"eps": 0.0}), pair, gB, gA), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_balanced_without_damping_makes_the_best_step_of_rank_r(shape):
    """dB A + B dA = -(P_B G + G P_A - P_B G P_A), the projection of -G on the tangent space."""
    pair, G, gB, gA = pair_and_gradients(shape)
    dB, dA = build("balanced", {"eps": 0.0}).velocity(pair, gB, gA, plain(pair))
    P_B, P_A = pair.B @ torch.linalg.pinv(pair.B), torch.linalg.pinv(pair.A) @ pair.A
    assert_equal(dB @ pair.A + pair.B @ dA, -(P_B @ G + G @ P_A - P_B @ G @ P_A))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4, 1.0, 1e6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_balanced_keeps_balance_at_every_damping_and_off_the_manifold(shape, eps, scale):
    """B^T dB = dA A^T, so that d/dt (B^T B - A A^T) = 0."""
    pair, _, gB, gA = pair_and_gradients(shape, scale)
    dB, dA = build("balanced", {"eps": eps}).velocity(pair, gB, gA, plain(pair))
    assert (pair.B.T @ dB - dA @ pair.A.T).norm() <= 1e-12 * (pair.B.norm() * dB.norm() + pair.A.norm() * dA.norm())


def test_balanced_with_large_damping_is_plain_lora():
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    lam = relative_damping(pair, 1e9)
    assert_equal(lam * velocity(build("balanced", {"eps": 1e9}), pair, gB, gA), -flat(gB, gA), 1e-7)


def test_balanced_at_zero_b_is_its_closed_form():
    pair, _G, gB, gA = pair_and_gradients((5, 4, 2), zero_b=True)
    dB, dA = build("balanced").velocity(pair, gB, gA, plain(pair))
    lam = relative_damping(pair, 1e-4)
    expected = -gB @ torch.linalg.inv(pair.K + lam * torch.eye(2, dtype=torch.float64))
    assert_equal(dB, expected)
    assert not dA.any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_balanced_euler_is_lora_pro_in_its_sylvester_gauge(shape):
    pair, _, gB, gA = pair_and_gradients(shape)
    S, K, B, A = pair.S, pair.K, pair.B, pair.A
    right = -torch.linalg.solve(S, gA @ A.T)
    X = torch.from_numpy(solve_sylvester(S.numpy(), K.numpy(), right.numpy()))
    P_B = B @ torch.linalg.solve(S, B.T)
    dA = -(torch.linalg.solve(S, gA) + X @ A)
    dB = -((torch.eye(len(B), dtype=torch.float64) - P_B) @ gB @ torch.linalg.inv(K) - B @ X)
    assert_equal(velocity(build("balanced", {"eps": 0.0}), pair, gB, gA), flat(dB, dA))
