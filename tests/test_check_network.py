"""The check of what a network makes of a problem: gradients that are cut off, points that see each other."""

import dataclasses
import re

import pytest
import torch
from heat import wrong

import pinn_lora as pl
import pinn_lora.problems
from pinn_lora.problem import Condition, Problem


@dataclasses.dataclass(frozen=True)
class Mixed(Problem):
    """No reference: what is found is found without one. `mode` is what is added to the equation, or how it is bounded."""

    mode: str = ""
    domain = pl.Domain(x=(0.0, 1.0), t=(0.0, 1.0))

    def residual(self, p, u):
        more = {
            "mean": lambda: 0.01 * u.value.mean(),
            "maximum": lambda: 0.01 * u.x / u.x.abs().max(),
            "points": lambda: 0.01 * u.value * p.x.max(),
            "kink": lambda: torch.relu(torch.sin(1000.0 * u.value)),
            "branch": lambda: torch.where(u.value > 0.0, u.x, 2.0 * u.x),
        }
        return u.t - u.xx + (more[self.mode]() if self.mode else 0.0)

    def conditions(self):
        return [pl.data([[0.5, 0.0]], [1.0]), pl.data([[0.5, 0.0], [0.2, 0.1], [0.1, 0.4]], [1.0, 0.0, 0.0])]


@pytest.mark.parametrize("mode", ["mean", "maximum", "points"])
def test_a_residual_that_mixes_points_is_found_without_a_reference(mode):
    (finding,) = wrong(Mixed(mode))
    assert finding.what == "residual" and finding.sentence.endswith("as a mean, a sum or a maximum does")
    assert re.search(
        r"test_check_network\.py, line \d+: a point's value depends on other points than its own", finding.sentence
    )


@pytest.mark.parametrize("mode", ["", "kink", "branch"])
def test_a_kink_of_the_equation_is_no_gradient_that_is_cut_off(mode):
    assert not wrong(Mixed(mode))


def test_a_condition_whose_gradient_is_cut_off_is_found():
    """In a third of its points, and where the residual is sound."""

    @dataclasses.dataclass(frozen=True)
    class Cut(Mixed):
        def conditions(self):
            part = lambda p, u: torch.where(p.t < 0.3, u.value.detach(), u.value)  # noqa: E731
            return [Condition("wall", part, faces=(("x", "lower"),))]

    (finding,) = wrong(Cut())
    assert finding.what == "wall" and "something is cut off" in finding.sentence
