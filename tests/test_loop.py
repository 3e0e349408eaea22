"""How a run measures its unit of work, by a clock that the test sets."""

import statistics
from dataclasses import dataclass, field
from itertools import accumulate

import pytest
import torch

from pinn_lora import loop
from pinn_lora.objective import Work


@dataclass
class Timed:
    """An objective whose gradients take the seconds given, one after another."""

    seconds: list[float]
    work: Work = field(default_factory=Work)
    asked: list[Work] = field(default_factory=list)

    def gradient(self, theta):
        self.asked.append(self.work)

    def clock(self, device):
        return [0.0, *accumulate(self.seconds)][len(self.asked)]


@pytest.mark.parametrize(
    ("first", "each", "calls"),
    [
        (0.02, [0.01, 0.03, 0.02] * 5, 16),
        (1.5, [0.01] * 15, 16),  # a device that starts up: only the first is slow
        (0.25, [0.25] * 15, 5),  # 1 s after the first
        (0.5, [0.0625, 0.75, 0.25, 0.5] * 4, 4),
        (4.5, [4.5] * 15, 2),  # a million points
    ],
)
def test_a_unit_of_work_is_the_median_gradient_and_takes_no_long_time(monkeypatch, first, each, calls):
    objective = Timed([first, *each])
    monkeypatch.setattr(loop, "spent", objective.clock)
    assert loop._work_unit(objective, torch.zeros(1)) == pytest.approx(statistics.median(each[: calls - 1]), rel=1e-9)
    assert len(objective.asked) == calls
    assert sum([first, *each][:calls]) <= first + 1.0 + max(each), "never more than a second and one gradient"
    assert all(work is not objective.work for work in objective.asked), "the run's own work is left alone"
