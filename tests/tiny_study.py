"""A study of seconds for the tests, and what its folder says."""

import json
import tomllib

from pinn_lora.config import check_config
from pinn_lora.study import run_study

TINY = """
name = "tiny"
title = "Tiny"
seeds = [0, 1]
points = 100
resamplings = 1
[[case]]
problem = "burgers"
base = { nu = "0.3/pi" }
target = { nu = "0.5/pi" }
width = 6
depth = 2
rank = 2
pretrain = { max_steps = 15, points = 150 }
[[method]]
name = "odelora-implicit"
max_steps = 8
[[method]]
name = "lora-sgd"
step_sizes = [1e-3, 1e3]
max_steps = 12
[[method]]
name = "full-lm"
max_steps = 4
"""


def run(folder, text=TINY, **options):
    config = check_config(tomllib.loads(text), where="tiny.toml")
    return run_study(config, folder, command="pinn-lora run tiny.toml", source=text, progress=False, **options)


def runs_of(folder):
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/run.json"))}
    assert all(name == run["id"] for name, run in found.items())
    return found


ROUND = """
from dataclasses import dataclass

import pinn_lora as pl
from pinn_lora.ball import Ball


@dataclass(frozen=True)
class Round(pl.Problem):
    k: float = 1.0
    dimension: int = 2

    @property
    def domain(self):
        return Ball(["x", "y", "z", "p", "q", "r", "v", "w"][: self.dimension])

    def residual(self, p, u):
        return u.xx + u.yy + 4.0 * self.k

    def reference(self, p):
        return self.k * (1.0 - p.x**2 - p.y**2)
"""
