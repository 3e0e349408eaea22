"""A sound problem in a file of its own, the heat equation, of which a test replaces a piece."""

from pinn_lora.checks.findings import Finding, Verdict
from pinn_lora.checks.problem import check_problem
from pinn_lora.problem_file import problem_in_file

HEAT = """
import math
from dataclasses import dataclass

import numpy as np
import torch

import pinn_lora as pl


@dataclass(frozen=True)
class Heat(pl.Problem):
    D: float = 0.1
    domain = pl.Domain(x=(0.0, 1.0), t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t - self.D * u.xx

    def conditions(self):
        return [
            pl.initial(lambda p: pl.cos(math.pi * p.x)),
            pl.dirichlet(lambda p: pl.exp(-self.D * math.pi**2 * p.t), on="x", side="lower"),
            pl.neumann(lambda p: 0.0, on="x", side="upper"),
            pl.robin(2.0, 0.5, lambda p: -2.0 * pl.exp(-self.D * math.pi**2 * p.t), on="x", side="upper"),
        ]

    def ansatz(self, p, n):
        return n

    def reference(self, p):
        return pl.exp(-self.D * math.pi**2 * p.t) * pl.cos(math.pi * p.x)
"""


def heat(tmp_path, old: str = "", new: str = ""):
    """The heat equation with a piece of its file replaced."""
    assert HEAT.count(old) == 1 or not old
    path = tmp_path / "heat.py"
    path.write_text(HEAT.replace(old, new) if old else HEAT)
    return problem_in_file(path)


def wrong(problem) -> list[Finding]:
    return [finding for finding in check_problem(problem) if finding.verdict is Verdict.WRONG]
