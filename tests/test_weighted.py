"""AdaPreLoRA's lift against weighted least squares with the explicit Jacobian of (B, A) -> B A."""

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
    uneven,
    velocity,
)

from pinn_lora.metrics import Weights


def parts(pair):
    """J and J_- of dB A + B dA and dB A - B dA, and the square root of F on vec W, row by row."""
    J = product_jacobian(pair)
    size = pair.B.numel()
    swap = torch.cat([torch.ones(size), -torch.ones(J.shape[1] - size)]).double()
    metric = uneven(pair)
    return J, J * swap, torch.outer(*metric).reshape(-1).sqrt(), metric


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_damping_it_is_the_nearest_step_and_of_those_the_one_with_the_nearest_parts(shape, scale):
    """min |F^1/2 (s J v) + F^-1/2 G|, then min |F^1/2 J_- v| over its solutions, both by brute force."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    J, J_minus, root, metric = parts(pair)
    weighted = scale * root[:, None] * J
    first = -torch.linalg.pinv(weighted, rtol=1e-12) @ (G.reshape(-1) / root)
    _, values, rows = torch.linalg.svd(weighted)
    free = rows[int((values > 1e-10 * values[0]).sum()) :].T  # directions that leave the product as it is
    columns = root[:, None] * (J_minus @ free)
    change = torch.linalg.lstsq(columns, -(root * (J_minus @ first))[:, None], driver="gelsd").solution[:, 0]
    found = velocity(build("weighted", {"eps": 0.0}), pair, gB, gA, metric)
    assert_equal(found, first + free @ change, 1e-9)


@pytest.mark.parametrize("lam", [0.01, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lam_weighs_the_difference_of_the_parts(shape, lam):
    """M_lam v = -g with M_lam = s^2 (J^T F J + lam J_-^T F J_-)."""
    scale = 0.3
    pair, _, gB, gA = pair_and_gradients(shape, scale)
    J, J_minus, root, metric = parts(pair)
    F = root.square()[:, None]
    M = scale**2 * (J.T @ (F * J) + lam * J_minus.T @ (F * J_minus))
    found = velocity(build("weighted", {"lam": lam, "eps": 0.0}), pair, gB, gA, metric)
    assert_equal(found, -torch.linalg.solve(M, flat(gB, gA)), 1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_with_the_identity_it_is_lora_pro_in_its_symmetry_gauge(shape):
    pair, _, gB, gA = pair_and_gradients(shape)
    for eps in (0.0, 1e-4, 0.5):
        expected = velocity(build("lora_pro", {"gauge": "symmetry", "eps": eps}), pair, gB, gA)
        assert_equal(velocity(build("weighted", {"eps": eps}), pair, gB, gA, plain(pair)), expected, 1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_with_the_identity_its_product_step_is_balanceds(shape):
    pair, _, gB, gA = pair_and_gradients(shape)
    J = product_jacobian(pair)
    expected = J @ velocity(build("balanced", {"eps": 0.0}), pair, gB, gA)
    assert_equal(J @ velocity(build("weighted", {"eps": 0.0}), pair, gB, gA, plain(pair)), expected, 1e-9)


def test_lam_1_is_half_of_scaled_gd():
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    expected = 0.5 * velocity(build("block_diagonal", {"eps": 1e-3}), pair, gB, gA)
    assert_equal(velocity(build("weighted", {"lam": 1.0, "eps": 1e-3}), pair, gB, gA, plain(pair)), expected)


def test_a_metric_times_a_number_is_a_step_divided_by_it():
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    P, Q = uneven(pair)
    lift = build("weighted")
    step = product_jacobian(pair) @ velocity(lift, pair, gB, gA, Weights(P, Q))
    larger = product_jacobian(pair) @ velocity(lift, pair, gB, gA, Weights(2.0 * P, 2.0 * Q))
    assert_equal(larger, step / 4.0)


def test_at_zero_b_only_b_moves_and_its_closed_form_is_finite():
    pair, _, gB, gA = pair_and_gradients((5, 4, 2), zero_b=True)
    P, Q = uneven(pair)
    S_A = (pair.A * Q) @ pair.A.T
    ridge = 1e-4 * S_A.trace() / 4
    dB, dA = build("weighted").velocity(pair, gB, gA, Weights(P, Q))
    assert_equal(dB, -(gB / P[:, None]) @ torch.linalg.inv(S_A + ridge * torch.eye(2)))
    assert not dA.any()


@pytest.mark.parametrize("options", [{"lam": -0.1}, {"eps": float("nan")}], ids=str)
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"weighted: {name} is {options[name]}; it must be at least 0"):
        build("weighted", options)
