"""AltLoRA and AltLoRA+ against their published steps, written out densely."""

import pytest
import torch
from small_objective import assert_close, dense, objective_of, started

from pinn_lora.optimizers.altlora import AltLoRA


def damping(B, A, eps):
    """eps tr(S + K) / (2 r) I, the sum taken over the entries."""
    return eps * (B.square().sum() + A.square().sum()) / (2 * len(A)) * torch.eye(len(A)).double()


@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("beta2", [0.0, 0.99])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_steps_are_the_published_ones(scale, beta2, eps):
    """By dense G and inverses, from a balanced start: what is kept, how it is aligned with a basis that has moved, the
    correction of its bias, and the damping of both. To 1e-8: seven steps of differing operations, and V^1/2 divides."""
    objective, h, beta = objective_of(scale=scale), 3e-3, 0.8
    run, theta = started(AltLoRA(beta=beta, beta2=beta2, eps=eps, decay=False), objective, step_size=h, max_steps=99)
    start = dense(objective, theta)
    M = [{"A": torch.zeros_like(A), "B": torch.zeros_like(B)} for B, A, _, _ in start]
    V = [{key: value.clone() for key, value in m.items()} for m in M]
    old = [{"A": torch.zeros_like(B), "B": torch.zeros_like(A)} for B, A, _, _ in start]  # as published: M is zero then
    for t in range(7):
        expected, side = [], "A" if t % 2 == 0 else "B"
        for k, (B, A, G, s) in enumerate(dense(objective, theta)):
            if side == "A":
                inverse = torch.linalg.inv(B.T @ B + damping(B, A, eps))
                near = inverse @ (s * B.T @ G) / s**2
                aligned = inverse @ B.T @ old[k]["A"] @ M[k]["A"]
            else:
                inverse = torch.linalg.inv(A @ A.T + damping(B, A, eps))
                near = (s * G @ A.T) @ inverse / s**2
                aligned = M[k]["B"] @ old[k]["B"] @ A.T @ inverse
            V[k][side] = beta2 * V[k][side] + (1 - beta2) * near**2
            step = h / (1 - beta ** (t // 2 + 1)) * (beta * aligned + (1 - beta) * near)
            if beta2:
                step = step / (V[k][side].sqrt() + 1e-6)
                M[k][side] = beta * M[k][side] + (1 - beta) * near
            else:
                M[k][side] = beta * aligned + (1 - beta) * near
            old[k][side] = (B if side == "A" else A).clone()
            expected.append((B, A - step) if side == "A" else (B - step, A))
        theta = run.step(objective, theta).theta
        for (B, A, _, _), (B2, A2) in zip(dense(objective, theta), expected, strict=True):
            assert_close(B, B2, 1e-8)
            assert_close(A, A2, 1e-8)


@pytest.mark.parametrize("beta2", [0.0, 0.99])
def test_dense_tensors_follow_their_gradient_at_every_step(beta2):
    """Whichever factor's turn it is, and by no momentum."""
    objective = objective_of(train_biases=True, train_output=True)
    run, theta = started(AltLoRA(beta2=beta2), objective, step_size=1e-3, max_steps=9)
    beside = [block.slice for block in objective.blocks.blocks if block not in objective.blocks.pairs]
    for _ in range(4):
        expected = theta - run.h * objective.gradient(theta)[1]
        theta = run.step(objective, theta).theta
        for place in beside:
            assert_close(theta[place], expected[place], 1e-14)


def test_a_zero_start_waits_for_b():
    objective = objective_of(initializer="zero_b")
    run, theta = started(AltLoRA(), objective, step_size=1e-3, max_steps=20)
    taken = run.step(objective, theta)
    assert not taken.accepted  # A's turn, and g_A is zero
    first = objective.value(theta)
    for _ in range(19):
        theta = run.step(objective, theta).theta
    assert objective.value(theta) < first


@pytest.mark.parametrize("options", [{"beta": 1.0}, {"beta2": -0.1}], ids=str)
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"altlora: {name} is {options[name]}; it must be at least 0 and below 1"):
        AltLoRA(**options)
