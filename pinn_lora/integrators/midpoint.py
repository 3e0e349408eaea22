"""Explicit midpoint rule: two gradients a step, order 2."""

from dataclasses import dataclass

from pinn_lora.integrators import RungeKutta, Tableau


@dataclass(frozen=True)
class Midpoint(RungeKutta):
    """Explicit midpoint rule: two gradients a step, order 2.

    Source: Runge 1895 (Mathematische Annalen 46).
    """

    order = 2
    tableau = Tableau(a=((0.5,),), b=(0.0, 1.0))
