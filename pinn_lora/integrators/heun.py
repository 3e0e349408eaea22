"""Heun's method, the explicit trapezoidal rule: two gradients a step, order 2."""

from dataclasses import dataclass

from pinn_lora.integrators import RungeKutta, Tableau


@dataclass(frozen=True)
class Heun(RungeKutta):
    """Heun's method, the explicit trapezoidal rule: two gradients a step, order 2.

    Source: Heun 1900 (Zeitschrift fuer Mathematik und Physik 45).
    """

    order = 2
    tableau = Tableau(a=((1.0,),), b=(0.5, 0.5))
