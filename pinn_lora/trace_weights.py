"""Weights of the loss terms, so that no condition is left behind."""

from __future__ import annotations

import math

from torch import nn

from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective
from pinn_lora.points import first_points
from pinn_lora.problem import Problem

POINTS = 1000  # interior points, and a tenth for every condition


def trace_weights(
    problem: Problem, network: nn.Module, *, seed: int = 0, max_memory: float | None = None
) -> dict[str, float]:
    """w_k = max(1, tr K_r / tr K_k) of every condition k, with tr K_k = sum |J_k|^2 / N_k at the network as it is, J_k the
    Jacobian of its residuals: then a small change of the unknowns changes every condition at least about as much as the
    equation's residual r, whose weight is 1. One that the network cannot change, or whose trace is not finite, keeps 1.

    Source: Wang, Yu & Perdikaris 2022 (arXiv 2007.14527), who make the weights anew while training and also below 1; here
    once, and a condition never weighs less than it would.
    """
    if len(problem.terms()) == 1:
        return {}
    blocks, points = Blocks(network), first_points(problem, POINTS, seed=seed)
    traces = Objective(problem, network, blocks, points, max_memory=max_memory).term_traces(blocks.read(network))
    residual = traces.pop("residual")
    found = {name: residual / trace if trace else 1.0 for name, trace in traces.items()}
    return {name: max(w, 1.0) if math.isfinite(w) else 1.0 for name, w in found.items()}
