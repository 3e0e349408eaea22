"""Riemannian descent and its truncation, against singular value decompositions of whole matrices."""

import numpy as np
import pytest
import torch
from small_objective import assert_close, dense, objective_of, started
from torch.autograd.functional import jacobian

from pinn_lora.lora import truncate
from pinn_lora.optimizers.riemannian import Riemannian


def best(X: torch.Tensor, rank: int) -> torch.Tensor:
    U, sigma, V = np.linalg.svd(X.numpy(), full_matrices=False)
    return torch.from_numpy((U[:, :rank] * sigma[:rank]) @ V[:rank])


@pytest.mark.parametrize(("m", "n", "k", "rank"), [(6, 5, 4, 2), (5, 7, 4, 3), (4, 3, 6, 2), (3, 3, 2, 2)])
def test_truncation_is_the_best_approximation_in_balanced_factors(m, n, k, rank):
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((m, k), (k, n)))
    B, A = truncate(left, right, rank)
    assert (B.shape, A.shape) == ((m, rank), (rank, n))
    assert_close(B @ A, best(left @ right, rank))
    torch.testing.assert_close(B.T @ B, A @ A.T, rtol=0, atol=1e-12 * float(B.square().sum()))


def test_truncation_leaves_out_what_is_within_the_tolerance():
    """Singular values 10, 1, 0.1, 0.01: under a tenth of the norm lie 0.1 and 0.01, not 1 with them."""
    generator = torch.Generator().manual_seed(2)
    U, V = (torch.linalg.qr(torch.randn(6, 4, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    X = U * torch.tensor([10.0, 1.0, 0.1, 0.01]).double()
    for tolerance, kept in ((0.0, 4), (5e-3, 3), (0.05, 2), (0.2, 1)):
        B, A = truncate(X, V.T, 4, tolerance)
        assert torch.linalg.matrix_rank(B @ A) == kept
        assert (B @ A - X @ V.T).norm() <= tolerance * X.norm() + 1e-12


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float64, 1e160), (torch.float64, 1e-170), (torch.float32, 1e20), (torch.float32, 1e-25)]
)
def test_truncation_takes_products_whose_squares_leave_the_range(dtype, size):
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(shape, generator=generator, dtype=dtype) for shape in ((6, 2), (2, 5)))
    B, A = truncate(size * left, right, 2)
    assert_close((B / size) @ A, left @ right, 1e-5)
    assert all(not factor.any() for factor in truncate(0.0 * left, right, 2))
    assert all(factor.isnan().all() for factor in truncate(torch.inf * left, right, 2))


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("h", [1e-4, 1e-2])
def test_a_step_is_the_truncated_projected_gradient(h, scale):
    """W0 + s X: X <- [X - h / s (P_B G + G P_A - P_B G P_A)]_r, all matrices whole."""
    objective = objective_of(scale=scale)
    run, theta = started(Riemannian(eps=0.0), objective, step_size=h, max_steps=9)
    for _ in range(3):
        expected = []
        for B, A, G, s in dense(objective, theta):
            P, Q = B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
            expected.append(best(B @ A - h / s * (P @ G + G @ Q - P @ G @ Q), len(A)))
        theta = run.step(objective, theta).theta
        for (B, A, _, _), X in zip(dense(objective, theta), expected, strict=True):
            assert_close(B @ A, X, 1e-9)
            torch.testing.assert_close(B.T @ B, A @ A.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("options", "eps"), [({}, 1e-6), ({"eps": 0.1}, 0.1)], ids=["default", "0.1"])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_damped_step_is_the_truncated_ridge_solution(scale, options, eps):
    """X <- [X + h (dB A + B dA)]_r with (dB, dA) of damped least squares, J the Jacobian of (B, A) -> B A: the least of
    |s J d + G|^2 + s^2 lam |d|^2, lam = eps tr(B^T B + A A^T) / (2 r). To 1e-8: J^T J + lam I is singular but for lam."""
    objective, h = objective_of(scale=scale), 1e-2
    run, theta = started(Riemannian(**options), objective, step_size=h, max_steps=9)
    for _ in range(3):
        expected = []
        for B, A, G, s in dense(objective, theta):
            J = torch.cat([j.flatten(2).flatten(0, 1) for j in jacobian(torch.matmul, (B, A))], 1)
            lam = eps * (B.square().sum() + A.square().sum()) / (2 * len(A))
            ridge = torch.cat([s * J, s * lam.sqrt() * torch.eye(J.shape[1], dtype=torch.float64)])
            right = torch.cat([-G.reshape(-1), torch.zeros(J.shape[1], dtype=torch.float64)])
            d = torch.linalg.lstsq(ridge, right).solution
            expected.append(best(B @ A + h * (J @ d).view_as(G), len(A)))
        theta = run.step(objective, theta).theta
        for (B, A, _, _), X in zip(dense(objective, theta), expected, strict=True):
            assert_close(B @ A, X, 1e-8)


def test_a_step_costs_one_gradient_and_dense_tensors_follow_theirs():
    objective = objective_of(train_biases=True)
    run, theta = started(Riemannian(), objective, step_size=1e-3, max_steps=9)
    g = objective.gradient(theta)[1]
    before = objective.work.gradients
    taken = run.step(objective, theta)
    assert objective.work.gradients == before + 1
    for block in objective.blocks.blocks:
        if block not in objective.blocks.pairs:
            assert_close(taken.theta[block.slice], (theta - 1e-3 * g)[block.slice], 1e-14)


def test_a_pair_without_a_velocity_stays_as_it_is():
    """B = 0 before a layer whose weight is zero: its product and its gradient are zero, and its A is not to be lost."""
    objective = objective_of(initializer="zero_b")
    first, second = (objective.network.get_submodule(block.name) for block in objective.blocks.pairs)
    second.weight.zero_()
    run, start = started(Riemannian(), objective, step_size=1e-3, max_steps=9)
    theta = run.step(objective, start).theta
    block = objective.blocks.pairs[0]
    assert torch.equal(theta[block.slice], start[block.slice]) and first.A.any()
    for _ in range(3):
        theta = run.step(objective, theta).theta
    assert theta.isfinite().all() and objective.value(theta) < objective.value(start)


def test_it_leaves_a_zero_start():
    objective = objective_of(initializer="zero_b")
    run, theta = started(Riemannian(), objective, step_size=1e-3, max_steps=20)
    first = objective.value(theta)
    for _ in range(20):
        theta = run.step(objective, theta).theta
    assert objective.value(theta) < first
