"""Three equations for the benchmarks of derivatives: each is our problem without its conditions, and the residual once more as
users of other packages write it, from derivatives that each of them makes in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pinn_lora.problems.allen_cahn import AllenCahn
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.helmholtz import Helmholtz

from pinn_lora.problem import Problem

Values = Mapping[str, Any]  # by name: "u", its derivatives "x", "xx", ..., and "sin" of the package that made them


@dataclass(frozen=True)
class BurgersAlone(Burgers):
    """The residual term alone, of the network's output as it is."""

    form: str = "soft"

    def conditions(self):
        return []


@dataclass(frozen=True)
class AllenCahnAlone(AllenCahn):
    """The residual term alone, of the network's output as it is."""

    form: str = "soft"

    def conditions(self):
        return []


@dataclass(frozen=True)
class HelmholtzAlone(Helmholtz):
    """The residual term alone, of the network's output as it is."""

    form: str = "soft"

    def conditions(self):
        return []


@dataclass(frozen=True)
class Equation:
    """`residual` (N,) from the two columns of the points and the derivatives that `needed` names by coordinate: "x", "xx"."""

    name: str
    problem: Problem
    needed: tuple[str, ...]
    residual: Callable[[Any, Any, Values], Any]

    def numbers(self, derivative: str) -> tuple[int, ...]:
        """The columns of the points that a derivative is taken in: (0, 0) for "xx"."""
        return tuple(self.problem.domain.number(name) for name in derivative)

    @property
    def orders(self) -> dict[int, int]:
        """The highest derivative that is needed in each column that has one."""
        numbers = [self.numbers(derivative) for derivative in self.needed]
        return {column: max(len(n) for n in numbers if n[0] == column) for column in sorted({n[0] for n in numbers})}


def _burgers(x: Any, t: Any, d: Values) -> Any:
    return d["t"] + d["u"] * d["x"] - 0.01 / math.pi * d["xx"]


def _allen_cahn(x: Any, t: Any, d: Values) -> Any:
    return d["t"] - 1e-4 * d["xx"] - 5.0 * (d["u"] - d["u"] ** 3)


def _helmholtz(x: Any, y: Any, d: Values) -> Any:
    source = (1.0 - 17.0 * math.pi**2) * d["sin"](math.pi * x) * d["sin"](4.0 * math.pi * y)
    return d["xx"] + d["yy"] + d["u"] - source


BURGERS = Equation("Burgers", BurgersAlone(nu=0.01 / math.pi), ("t", "x", "xx"), _burgers)
ALLEN_CAHN = Equation("Allen-Cahn", AllenCahnAlone(D=1e-4, rho=5.0), ("t", "xx"), _allen_cahn)
HELMHOLTZ = Equation("Helmholtz", HelmholtzAlone(k=1.0, a1=1, a2=4), ("xx", "yy"), _helmholtz)
EQUATIONS = (BURGERS, ALLEN_CAHN, HELMHOLTZ)
