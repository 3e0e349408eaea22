"""The line search that our own quasi-Newton methods share."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import line_search
from torch import Tensor

from pinn_lora.objective import Objective


class Place(NamedTuple):
    """theta with its loss and gradient."""

    theta: Tensor
    value: float
    gradient: Tensor


def evaluate(objective: Objective, theta: Tensor) -> Place:
    return Place(theta, *objective.gradient(theta))


def strong_wolfe(objective: Objective, start: Place, direction: Tensor, *, before: float | None = None) -> Place | None:
    """Where SciPy's line search along `direction` ends, by the strong Wolfe conditions with c1 = 1e-4, c2 = 0.9. Where its
    tries run out it may end where only the loss has fallen enough; None where it has not. `before`: the loss of the step
    before, for its first guess. Every evaluation is a gradient."""
    seen: dict[float, Place] = {0.0: start}
    origin, along = start.theta, direction

    def at(x: np.ndarray) -> Place:
        t = float(x[0])
        if t not in seen:
            seen[t] = evaluate(objective, origin + t * along)
        return seen[t]

    def value(x: np.ndarray) -> float:
        found = at(x).value
        return found if math.isfinite(found) else math.inf

    def slope(x: np.ndarray) -> np.ndarray:
        return np.array([float(at(x).gradient @ along)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it failed: said by None
        first = np.array([float(start.gradient @ along)])
        found = line_search(value, slope, np.zeros(1), np.ones(1), gfk=first, old_fval=start.value, old_old_fval=before)
    t = found[0]
    if t is None:
        return None
    place = at(np.array([t]))
    fell = place.value <= start.value + 1e-4 * t * float(first[0])
    return place if fell and not torch.equal(place.theta, origin) else None
