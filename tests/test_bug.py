"""The BUG integrator against its sub-steps written out with whole matrices."""

import numpy as np
import pytest
import torch
from small_objective import assert_close, dense, objective_of, started

from pinn_lora.optimizers.bug import BUG


def written_out(X: np.ndarray, G: np.ndarray, rank: int) -> np.ndarray:
    """One step of Ceruti, Kusch & Lubich's algorithm from X of that rank, h = 1."""
    U, sigma, V = np.linalg.svd(X, full_matrices=False)
    U, S, V = U[:, :rank], np.diag(sigma[:rank]), V[:rank].T
    K, L = U @ S - G @ V, V @ S.T - G.T @ U
    left, right = np.linalg.qr(np.hstack([U, K]))[0], np.linalg.qr(np.hstack([V, L]))[0]
    S_hat = left.T @ (U @ S @ V.T - G) @ right
    P, sigma, Q = np.linalg.svd(S_hat)
    return left @ (P[:, :rank] * sigma[:rank]) @ Q[:rank] @ right.T


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("h", [1e-4, 1e-2, 1.0])
def test_a_step_is_the_algorithms(h, scale):
    objective = objective_of(scale=scale)
    run, theta = started(BUG(), objective, step_size=h, max_steps=9)
    for _ in range(2):
        expected = [written_out((B @ A).numpy(), (h / s * G).numpy(), len(A)) for B, A, G, s in dense(objective, theta)]
        before = objective.work.gradients
        theta = run.step(objective, theta).theta
        assert objective.work.gradients == before + 1
        for (B, A, _, _), X in zip(dense(objective, theta), expected, strict=True):
            assert_close(B @ A, torch.from_numpy(X), 1e-9)
            torch.testing.assert_close(B.T @ B, A @ A.T, rtol=0, atol=1e-12 * float(1 + B.square().sum()))


def test_it_never_divides_by_a_small_singular_value():
    """Factors with a singular value of 1e-9: the step is as short as from the same product without it."""
    objective, moved = objective_of(), []
    for size in (1e-9, 0.0):
        theta = objective.blocks.read(objective.network).clone()
        for block in objective.blocks.pairs:
            B, _ = block.split(theta[block.slice])
            B[:, 1] *= size
        products = [B @ A for B, A, _, _ in dense(objective, theta)]
        run = BUG().start(objective.blocks, theta, step_size=1e-3, max_steps=9)
        new = run.step(objective, theta).theta
        moved.append(
            sum(float((B @ A - X).norm()) for (B, A, _, _), X in zip(dense(objective, new), products, strict=True))
        )
    assert moved[0] == pytest.approx(moved[1], rel=0.5)
    assert moved[0] < 1.0


def test_a_tolerance_lowers_the_rank_and_the_zero_start_raises_it():
    objective = objective_of(initializer="zero_b")
    run, theta = started(BUG(), objective, step_size=1e-3, max_steps=9)
    theta = run.step(objective, theta).theta
    assert all(torch.linalg.matrix_rank(B @ A) == 2 for B, A, _, _ in dense(objective, theta))
    low = BUG(tolerance=0.9).start(objective.blocks, theta, step_size=1e-3, max_steps=9)
    theta = low.step(objective, theta).theta
    assert all(torch.linalg.matrix_rank(B @ A) == 1 for B, A, _, _ in dense(objective, theta))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"bug: tolerance is 1.0; it must be at least 0 and below 1"):
        BUG(tolerance=1.0)
