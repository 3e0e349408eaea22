"""AltLoRA against algorithms 1 and 2 of its paper, written out."""

import pytest
import torch
from small_objective import assert_close, dense, objective_of, started

from pinn_lora.optimizers.altlora import AltLoRA


@pytest.mark.parametrize("beta2", [0.0, 0.99])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_steps_are_the_algorithms(scale, beta2):
    """Without damping, from a balanced start: momentum follows the other factor's basis by its projector."""
    objective, h, beta = objective_of(scale=scale), 1e-3, 0.8
    run, theta = started(AltLoRA(beta=beta, beta2=beta2, eps=0.0, decay=False), objective, step_size=h, max_steps=99)
    start = dense(objective, theta)
    M = [{"A": torch.zeros_like(A), "B": torch.zeros_like(B)} for B, A, _, _ in start]
    V = [{key: value.clone() for key, value in m.items()} for m in M]
    old = [{"A": B.clone(), "B": A.clone()} for B, A, _, _ in start]
    for t in range(7):
        expected = []
        for k, (B, A, G, s) in enumerate(dense(objective, theta)):
            side = "A" if t % 2 == 0 else "B"
            if side == "A":
                inverse = torch.linalg.inv(B.T @ B)
                near = inverse @ (s * B.T @ G) / s**2
                M[k]["A"] = beta * inverse @ B.T @ old[k]["A"] @ M[k]["A"] + (1 - beta) * near
                old[k]["A"] = B.clone()
            else:
                inverse = torch.linalg.inv(A @ A.T)
                near = (s * G @ A.T) @ inverse / s**2
                M[k]["B"] = beta * M[k]["B"] @ old[k]["B"] @ A.T @ inverse + (1 - beta) * near
                old[k]["B"] = A.clone()
            V[k][side] = beta2 * V[k][side] + (1 - beta2) * near**2
            step = h * (M[k][side] / (V[k][side].sqrt() + 1e-8) if beta2 else M[k][side])
            expected.append((B, A - step) if side == "A" else (B - step, A))
        theta = run.step(objective, theta).theta
        for (B, A, _, _), (B2, A2) in zip(dense(objective, theta), expected, strict=True):
            assert_close(B, B2, 1e-8)
            assert_close(A, A2, 1e-8)


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
