"""The classical Runge-Kutta method: four gradients a step, order 4, stable for h L < 2.785."""

from dataclasses import dataclass

from pinn_lora.integrators import RungeKutta, Tableau


@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classical Runge-Kutta method: four gradients a step, order 4, stable for h L < 2.785.

    Source: Kutta 1901 (Zeitschrift fuer Mathematik und Physik 46).
    """

    order = 4
    tableau = Tableau(a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))
