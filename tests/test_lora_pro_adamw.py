"""LoRA-Pro's Adam against its algorithm, written out with dense matrices and least squares."""

import pytest
import torch
from small_objective import assert_close, dense, objective_of, started

from pinn_lora.optimizers.lora_pro_adamw import LoRAProAdamW


def lifted(B, A, gB, gA, s, gauge, damping):
    """The paper's velocities, with its X; lam I is added to B^T B and A A^T, lam = damping tr(B^T B + A A^T) / (2 r)."""
    r = len(A)
    lam = damping * (B.square().sum() + A.square().sum()) / (2 * r) * torch.eye(r).to(B)
    BB, AA = B.T @ B + lam, A @ A.T + lam
    S, K = torch.linalg.inv(BB), torch.linalg.inv(AA)
    if gauge == "zero":
        X = torch.zeros(r, r).to(B)
    elif gauge == "symmetry":
        X = -0.5 * S @ B.T @ gB @ K / s**2
    else:  # (B^T B + lam) X + X (A A^T + lam) = -S g_A A^T / s^2, by Kronecker's product
        eye = torch.eye(r).to(B)
        left = torch.kron(BB, eye) + torch.kron(eye, AA)
        X = torch.linalg.solve(left, (-S @ gA @ A.T / s**2).reshape(-1)).view(r, r)
    dA = S @ gA / s**2 + X @ A
    dB = (gB - B @ S @ B.T @ gB) @ K / s**2 - B @ X
    return dB, dA


@pytest.mark.parametrize("gauge", ["zero", "symmetry", "sylvester"])
@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize(
    ("options", "damping"),
    [({"damping": 0.0}, 0.0), ({}, 1e-4), ({"damping": 0.3}, 0.3)],
    ids=["undamped", "default", "0.3"],
)
def test_steps_are_the_algorithms(options, damping, scale, gauge):
    objective, h, decay = objective_of(scale=scale), 1e-3, 0.1
    rule = LoRAProAdamW(gauge=gauge, beta1=0.8, beta2=0.95, eps=1e-5, weight_decay=decay, decay=False, **options)
    run, theta = started(rule, objective, step_size=h, max_steps=99)
    moments = [[torch.zeros_like(G), torch.zeros_like(G)] for _, _, G, _ in dense(objective, theta)]
    for t in range(1, 6):
        expected = []
        for k, (B, A, G, s) in enumerate(dense(objective, theta)):
            dB, dA = lifted(B, A, s * G @ A.T, s * B.T @ G, s, gauge, damping)
            whole = s * (dB @ A + B @ dA)
            moments[k][0] = 0.8 * moments[k][0] + 0.2 * whole
            moments[k][1] = 0.95 * moments[k][1] + 0.05 * whole**2
            D = moments[k][0] / (1 - 0.8**t) / ((moments[k][1] / (1 - 0.95**t)).sqrt() + 1e-5)
            dB, dA = lifted(B, A, s * D @ A.T, s * B.T @ D, s, gauge, damping)
            expected.append(((1 - h * decay) * B - h * dB, (1 - h * decay) * A - h * dA))
        theta = run.step(objective, theta).theta
        for (B, A, _, _), (B2, A2) in zip(dense(objective, theta), expected, strict=True):
            assert_close(B, B2, 1e-8)
            assert_close(A, A2, 1e-8)


def test_dense_tensors_follow_adam():
    """Biases beside the factors, against torch's Adam fed with the same gradients."""
    objective = objective_of(train_biases=True)
    run, theta = started(LoRAProAdamW(decay=False), objective, step_size=1e-2, max_steps=99)
    block = next(b for b in objective.blocks.blocks if len(b.shapes) == 1)
    parameter = torch.nn.Parameter(theta[block.slice].clone())
    adam = torch.optim.Adam([parameter], lr=1e-2)
    for _ in range(5):
        parameter.grad = objective.gradient(theta)[1][block.slice].clone()
        adam.step()
        theta = run.step(objective, theta).theta
        assert_close(theta[block.slice], parameter.detach(), 1e-12)


def test_an_unknown_gauge_is_refused():
    with pytest.raises(ValueError, match="there is no gauge of lora_pro 'sylvestre'; did you mean 'sylvester'"):
        LoRAProAdamW(gauge="sylvestre")
