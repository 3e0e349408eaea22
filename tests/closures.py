"""Losses as a torch loop has them, and networks and optimizers for every explicit method, for the tests of FactorOptimizer."""

import torch
from small_objective import objective_of

from pinn_lora.factor_optimizer import FactorOptimizer
from pinn_lora.presets import PRESETS

EXPLICIT = [name for name, p in PRESETS.items() if p.trains == "factors" and not p.method.implicit]


def objective(**options):
    made = {"initializer": "balanced", "rank": 2, **options}
    return objective_of(**made)


def closure_of(objective):
    """The loss as torch code gives it, through the network's own parameters."""
    network = objective.network
    points = objective.points["residual"][0]
    residual = objective.problem

    def closure():
        for parameter in network.parameters():
            parameter.grad = None
        x = points.clone().requires_grad_()
        u = residual.solution(x, network)[0]
        d = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        xx = torch.autograd.grad(d[:, 0].sum(), x, create_graph=True)[0][:, 0]
        loss = (d[:, 1] + u * d[:, 0] - residual.nu * xx).square().mean()
        loss.backward()
        return loss

    return closure


def exact_closure_of(objective):
    """The objective's own gradient, bit for bit."""

    def closure():
        value, g = objective.gradient(objective.blocks.read(objective.network))
        held = dict(objective.network.named_parameters())
        for key, slope in objective.blocks.parameters(g).items():
            held[key].grad = slope.clone()
        return value

    return closure


def closure_for(name, made):
    """SOAP's eigenvectors of nearly singular matrices turn with rounding, so that it gets the same gradients."""
    return (exact_closure_of if name == "lora-soap" else closure_of)(made)


def made_for(name):
    preset = PRESETS[name]
    return objective(**({"initializer": preset.initializer} if preset.method.rank_factor > 1 else {}))


def optimizer_for(name, made):
    adaptive = PRESETS[name].method.adaptive
    return FactorOptimizer(made.network, name, step_size=None if adaptive else 1e-3, max_steps=20)
