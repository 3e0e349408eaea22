"""The check of a problem against its reference: rough ones, ones that err, and starts whose kink stays."""

import dataclasses
import re

import pytest
import torch
from heat import heat, wrong

import pinn_lora as pl
import pinn_lora.problems
from pinn_lora.checks.findings import Verdict
from pinn_lora.checks.problem import check_problem
from pinn_lora.problem import Problem


@dataclasses.dataclass(frozen=True)
class Steep(Problem):
    """u_t + c u_x = 0 with a kink that travels, and with noise where x is below a bound: what a table may look like."""

    c: float = 1.0
    said: float = 1.0
    noise: float = 0.0
    below: float = 1.0
    domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t + self.said * u.x

    def reference(self, p):
        s = p.x - self.c * p.t
        noise = self.noise * torch.sin(1e6 * p.x + 3e6 * p.t)
        return s.abs() + torch.sin(3.0 * s) + torch.where(p.x < self.below, noise, 0.0)


@pytest.mark.parametrize("noise", [0.0, 1e-2])
def test_what_is_rough_in_one_place_is_no_mistake_and_hides_none(noise):
    """A kink, and noise in a fifth of the domain."""
    assert not wrong(Steep(noise=noise, below=-0.6))
    (finding,) = wrong(Steep(noise=noise, below=-0.6, said=1.01))
    assert finding.what == "residual"


@pytest.mark.parametrize(("noise", "level"), [(1e-2, 6.0), (1e-6, 2e-3)])
def test_a_reference_too_rough_to_be_differenced_is_not_judged(noise, level):
    """Differences of the noise grow with it: ten times as uncertain as they are, they say how little can be told."""
    (finding,) = [f for f in check_problem(Steep(noise=noise)) if f.verdict is Verdict.UNKNOWN]
    assert finding.what == "residual" and "too rough for its differences" in finding.sentence
    assert level / 3 < finding.number < 3 * level and f"may leave {finding.number:.1g} of" in finding.sentence


def test_what_is_wrong_where_the_reference_is_smooth_is_not_hidden_by_where_it_is_rough():
    """A sixth of the points: the median does not see it, and the noise of the others hides it from the root mean square."""

    @dataclasses.dataclass(frozen=True)
    class Local(Steep):
        def residual(self, p, u):
            return u.t + u.x + torch.where(p.x > 0.6, 0.5, 0.0)

    (finding,) = wrong(Local(noise=1e-2, below=-0.6))
    assert finding.what == "residual"


@pytest.mark.parametrize(("stated", "told"), [(1e-9, True), (5e-3, False), (0.84, False)])
def test_what_a_reference_says_of_its_own_error_is_taken_into_account(tmp_path, stated, told):
    more = f"    def reference_error(self):\n        return {stated}\n\n    def reference(self, p):"
    found = check_problem(heat(tmp_path, "    def reference(self, p):", more)())
    said = {finding.what: finding for finding in found}
    assert f"it errs by {stated:.1g} at most, by its own account" in said["reference"].sentence
    assert (said["reference"].verdict is Verdict.UNKNOWN) == (stated > 1e-2)
    assert said["residual"].verdict is (Verdict.OK if told else Verdict.UNKNOWN)
    assert said["initial"].verdict is (Verdict.OK if told else Verdict.UNKNOWN)
    if not told:
        assert "errs by too much, by its own account, at 48 of 48 points" in said["residual"].sentence
        assert said["residual"].number == pytest.approx(stated)


@pytest.mark.parametrize("stated", ["'small'", "math.nan", "-1e-3"])
def test_an_error_that_is_none_is_one_sentence(tmp_path, stated):
    more = f"    def reference_error(self):\n        return {stated}\n\n    def reference(self, p):"
    (found,) = wrong(heat(tmp_path, "    def reference(self, p):", more)())
    assert re.search(r"line \d+: reference_error gives .*; it must be at least 0 and finite, or None$", found.sentence)


@dataclasses.dataclass(frozen=True)
class Kinked(Problem):
    """x^2 on a period from -1 to 1 has a kink at the ends, which no periodic network takes away."""

    order: int = 2

    domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 1.0))
    periodic = ("x",)

    def residual(self, p, u):
        return u.t - (u.xx if self.order == 2 else u.x)

    def ansatz(self, p, n):
        return p.x**2 + p.t * n


def test_a_start_whose_kink_stays_at_a_periods_ends_is_found():
    found = [finding for finding in check_problem(Kinked()) if finding.verdict is Verdict.WRONG]
    assert [finding.what for finding in found] == ["ansatz"]
    assert "periodic names x, and the ansatz's derivative in x differs by 4 between its two ends" in found[0].sentence
    assert not [finding for finding in check_problem(Kinked(order=1)) if finding.verdict is Verdict.WRONG]
