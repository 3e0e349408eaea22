"""The Cayley retraction against the whole skew matrix."""

import math

import pytest
import torch
from small_objective import assert_close, dense, objective_of, started

from pinn_lora.optimizers.cayley import Cayley, rotate


@pytest.mark.parametrize("h", [1e-3, 0.3, 100.0])
@pytest.mark.parametrize(("m", "r"), [(6, 2), (4, 4), (5, 1)])
def test_a_rotation_is_cayleys_of_the_whole_skew_matrix_and_keeps_the_gram_matrix(m, r, h):
    generator = torch.Generator().manual_seed(1)
    B, g_B = (torch.randn(m, r, generator=generator, dtype=torch.float64) for _ in range(2))
    R, eye = g_B @ B.T - B @ g_B.T, torch.eye(m, dtype=torch.float64)
    found = rotate(B, g_B, h)
    assert_close(found, torch.linalg.solve(eye + 0.5 * h * R, (eye - 0.5 * h * R) @ B), 1e-9)
    assert_close(found.T @ found, B.T @ B, 1e-9)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_step_written_out(scale):
    """Of both factors, with the skew matrix whole and g_B = s G A^T, g_A = s B^T G from the dense G."""
    objective, h = objective_of(scale=scale), 0.05
    run, theta = started(Cayley(), objective, step_size=h, max_steps=9)
    for _ in range(3):
        expected = []
        for B, A, G, s in dense(objective, theta):
            g_B, g_A, eye = s * G @ A.T, s * B.T @ G, torch.eye(len(B), dtype=torch.float64)
            R = g_B @ B.T - B @ g_B.T
            expected.append((torch.linalg.solve(eye + 0.5 * h * R, (eye - 0.5 * h * R) @ B), A - h * g_A))
        theta = run.step(objective, theta).theta
        for (B, A, _, _), (B2, A2) in zip(dense(objective, theta), expected, strict=True):
            assert_close(B, B2, 1e-12)
            assert_close(A, A2, 1e-12)


def test_steps_descend_and_keep_b_on_its_manifold():
    objective = objective_of(train_biases=True)
    run, theta = started(Cayley(), objective, step_size=1e-3, max_steps=99)
    start, values = dense(objective, theta), [objective.value(theta)]
    for _ in range(20):
        before, g = theta, objective.gradient(theta)[1]
        theta = run.step(objective, theta).theta
        values.append(objective.value(theta))
        assert values[-1] < values[-2]
        for block in objective.blocks.blocks:
            if block not in objective.blocks.pairs:
                assert_close(theta[block.slice], (before - 1e-3 * g)[block.slice], 1e-14)
    for (B0, A0, _, _), (B, A, _, _) in zip(start, dense(objective, theta), strict=True):
        assert_close(B.T @ B, B0.T @ B0, 1e-12)
        assert (B - B0).norm() > 1e-6
        assert (A - A0).norm() > 1e-6


def test_with_decay_the_step_size_falls_along_a_half_cosine():
    objective = objective_of()
    run, theta = started(Cayley(decay=True), objective, step_size=1e-3, max_steps=4)
    sizes = [run.step(objective, theta).next_h for _ in range(4)]
    assert sizes == pytest.approx([1e-3 * (1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3, 4)], abs=1e-18)


def test_a_zero_b_is_refused():
    with pytest.raises(ValueError, match="cayley rotates B and this start's is zero; take the start balanced"):
        started(Cayley(), objective_of(initializer="zero_b"), step_size=1e-3, max_steps=9)
