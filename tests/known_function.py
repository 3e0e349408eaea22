"""A known function as a problem's solution: u = x^3 t^2 + sin(x) + 2 t, whatever the network says."""

from dataclasses import dataclass

import torch

import pinn_lora as pl
from pinn_lora.fields import Coordinates, Field, components
from pinn_lora.jets import Jet, closure
from pinn_lora.problem import Condition, Problem

BOX = pl.Domain(x=(-1.0, 1.0), t=(0.0, 2.0))


def known(p):
    """u = x^3 t^2 + sin(x) + 2 t, of jets or tensors."""
    return p.x**3 * p.t**2 + pl.sin(p.x) + 2.0 * p.t


@dataclass(frozen=True)
class Known(Problem):
    """A problem whose ansatz is the known function whatever the network says."""

    found: tuple = ()
    domain = BOX

    def residual(self, p, u):
        return u.t - u.xx

    def conditions(self):
        return list(self.found)

    def ansatz(self, p, n):
        return known(p) + 0.0 * n


def misfit(condition: Condition, *, n: int = 40, domain=BOX) -> tuple[torch.Tensor, ...]:
    """The condition's residual components for the known function."""
    problem, indices = Known(), closure([(0, 0), (0, 1), (1, 1)])
    sets = []
    for points in condition.sample(domain, n, seed=1):
        jets = [Jet.coordinate(points, i, indices) for i in range(2)]
        fields = problem.solution_jets(jets, torch.zeros(len(indices), len(points), 1, dtype=torch.float64), indices)
        sets.append((Coordinates.of(points, domain), *fields))
    return components(condition.operator(*sets) if condition.paired else condition.operator(*sets[0]))


def field(names=("x", "t")) -> Field:
    indices = closure([(0, 0), (0, 1), (1, 1)])
    return Field(torch.arange(12.0, dtype=torch.float64).reshape(6, 2) + 1.0, indices, names)
