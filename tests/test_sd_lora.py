"""SD-LoRA's step against autograd on the sum that it trains, torch's Adam and torch's cosine."""

import pytest
import torch
from small_objective import assert_close, objective_of, started

from pinn_lora.optimizers.sd_lora import SDLoRA

STEPS = 5


class WrittenOut:
    """W = W0 + sum_k a_k B_k A_k + B A of every layer: magnitudes a, fixed directions of norm 1, the newest pair, each of rank
    r; and the biases."""

    def __init__(self, objective, theta, r: int) -> None:
        self.objective, self.layers, self.trained = objective, [], []
        for block in objective.blocks.blocks:
            tensors, past = [t.clone() for t in block.split(theta[block.slice])], None
            if len(tensors) == 2:
                Bs, As = tensors[0].split(r, 1), tensors[1].split(r)
                past = [B / B.norm() for B in Bs[:-1]], As[:-1]
                tensors = [torch.stack([B.norm() for B in Bs[:-1]]), Bs[-1].clone(), As[-1].clone()]
            tensors = [t.requires_grad_() for t in tensors]
            self.layers.append((tensors, past))
            self.trained += tensors

    def theta(self) -> torch.Tensor:
        parts = []
        for tensors, past in self.layers:
            if past is None:
                parts += tensors
            else:
                (a, B, A), (units, rows) = tensors, past
                parts += [torch.cat([*(size * unit for size, unit in zip(a, units, strict=True)), B], 1)]
                parts += [torch.cat([*rows, A])]
        return torch.cat([part.reshape(-1) for part in parts])

    def gradients(self) -> tuple[torch.Tensor, ...]:
        """By autograd through the sum."""
        theta = self.theta()
        return torch.autograd.grad(self.objective.gradient(theta.detach())[1] @ theta, self.trained)


@pytest.mark.parametrize("decay", [True, False])
@pytest.mark.parametrize(("past", "rank"), [(2, 1), (1, 2)])
def test_steps_written_out(past, rank, decay):
    """Of so many past pairs and a new one, biases beside them. To 1e-12: the same operations, summed in another order."""
    objective = objective_of(rank=(past + 1) * rank, train_biases=True)
    run, theta = started(SDLoRA(rank=rank, decay=decay), objective, step_size=1e-2, max_steps=STEPS)
    expected, start = WrittenOut(objective, theta, rank), theta
    adam = torch.optim.Adam(expected.trained, lr=1e-2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=STEPS)
    for _ in range(STEPS):
        for tensor, gradient in zip(expected.trained, expected.gradients(), strict=True):
            tensor.grad = gradient
        adam.step()
        if decay:
            cosine.step()
        theta = run.step(objective, theta).theta
        assert_close(theta, expected.theta().detach(), 1e-12)
    for block in objective.blocks.blocks:
        assert not torch.equal(theta[block.slice], start[block.slice])


def test_without_a_past_it_is_adam_on_one_pair():
    """`rank` 0: all of a layer's factors are the newest pair."""
    objective = objective_of(rank=3, train_biases=True)
    run, theta = started(SDLoRA(), objective, step_size=1e-2, max_steps=STEPS)
    parameter = torch.nn.Parameter(theta.clone())
    adam = torch.optim.Adam([parameter], lr=1e-2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=STEPS)
    for _ in range(STEPS):
        parameter.grad = objective.gradient(parameter.detach())[1]
        adam.step()
        cosine.step()
        theta = run.step(objective, theta).theta
        assert_close(theta, parameter.detach(), 1e-12)
