"""Explicit Euler: gradient descent on the flow; one gradient a step, stable for h L < 2."""

from dataclasses import dataclass

from pinn_lora.integrators import RungeKutta, Tableau


@dataclass(frozen=True)
class Euler(RungeKutta):
    """Explicit Euler: gradient descent on the flow; one gradient a step, stable for h L < 2.

    Source: Euler 1768 (Institutiones calculi integralis); as descent on a function: Cauchy 1847.
    """

    order = 1
    tableau = Tableau(a=(), b=(1.0,))
