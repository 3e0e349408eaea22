"""What training returns: a solution that can be evaluated, judged, drawn, saved and adapted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pinn_lora import adapters
from pinn_lora.identity import Identified, identified
from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective
from pinn_lora.points import held_out_points
from pinn_lora.problem import Problem, numbered

GRID = {1: 1001, 2: 161, 3: 30}  # test points a coordinate; in more coordinates 40,000 Sobol points


class Status(StrEnum):
    """How a run ended; a value, not an exception."""

    COMPLETED = "COMPLETED"  # the budget was one of steps and all were taken
    CONVERGED = "CONVERGED"  # the held-out loss stalled, or the line search found nothing more
    EXHAUSTED = "EXHAUSTED"  # the budget of seconds was spent
    DIVERGED = "DIVERGED"  # a loss that is not finite, or 1e3 times the first


@dataclass(frozen=True)
class Record:
    """One line of a history. Work is in units of one loss-and-gradient; seconds and work leave out what only reports."""

    step: int
    loss: float
    held_out_loss: float
    relative_l2: float
    work: float
    seconds: float
    step_size: float
    accepted: bool
    drift: float | None
    points: int


@dataclass(frozen=True)
class Solution:
    """A trained network for a problem; `base` is the solution it was adapted from, None for a pretrained one."""

    problem: Problem
    network: nn.Module = field(repr=False)
    base: Solution | None = field(default=None, repr=False)
    history: tuple[Record, ...] = field(default=(), repr=False)
    status: Status = Status.COMPLETED
    settings: dict[str, Any] = field(default_factory=dict)

    def fields(self, points: Tensor) -> Tensor:
        """The fields (n, fields) at points (n, d), on the network's device and in its type."""
        like = next(iter(self.network.state_dict().values()))
        with torch.no_grad():
            parts = points.to(like).split(16_384)
            return torch.cat([torch.stack(self.problem.solution(part, self.network), dim=-1) for part in parts])

    def predict(self, points: Any) -> Any:
        """The fields (n, fields) at points (n, d): numpy gives numpy float64, a tensor stays a tensor."""
        given = points if isinstance(points, Tensor) else torch.as_tensor(np.asarray(points, dtype=np.float64))
        d = self.problem.domain.dimension
        if given.ndim != 2 or given.shape[1] != d:
            names = ", ".join(self.problem.domain.names)
            raise ValueError(f"points have shape {tuple(given.shape)}; give (n, {d}), one column for each of {names}")
        found = self.fields(given)
        return found if isinstance(points, Tensor) else found.double().cpu().numpy()

    def relative_l2(self) -> float:
        """||u - reference|| / ||reference|| over a regular test grid. ValueError where the problem has no reference."""
        if not self.problem.has_reference:
            name = type(self.problem).__name__
            raise ValueError(f"{name} has no reference, so there is no error to report; see residual_norms()")
        return relative_error(self.predict(grid_points(self.problem).numpy()), grid_reference(self.problem))

    def residual_norms(self) -> dict[str, float]:
        """Root mean square of the residual and of every condition on the held-out points."""
        network = self.network
        blocks = Blocks(network)
        return Objective(self.problem, network, blocks, held_out_points(self.problem)).term_norms(blocks.read(network))

    def weights_for(self, problem: Problem) -> dict[str, float]:
        """The weights of the loss terms that it was trained with, of those that `problem` has."""
        names = [name for name, _, _ in problem.terms()]
        return {name: w for name, w in self.settings.get("weights", {}).items() if name in names}

    def zero_shot(self) -> Solution:
        """The base, evaluated unchanged on this problem. ValueError for a solution that has no base."""
        if self.base is None:
            raise ValueError("this solution was pretrained, not adapted: there is no base to compare with")
        return Solution(self.problem, self.base.network)

    def compare_to_base(self) -> float:
        """The zero-shot error: relative L2 of the unchanged base on this problem."""
        return self.zero_shot().relative_l2()

    def save(self, folder: str | Path) -> Path:
        """Writes an adapter (PEFT's layout) or, for a pretrained solution, the whole network. Never over a full folder."""
        notes = {
            "status": str(self.status),
            "settings": self.settings,
            "problem": adapters.describe_problem(self.problem),
            "seconds": self.settings.get("seconds"),
        }
        if self.base is None:
            return adapters.save_network(self.network, folder, notes=notes)
        return adapters.save_adapter(self.network, folder, base=self.base.network, notes=notes)

    @classmethod
    def load(cls, folder: str | Path, *, base: Solution | None = None, problem: Problem | None = None) -> Solution:
        """A saved solution; an adapter needs the `base` it was made from. `problem` is needed for a problem of your own."""
        if base is not None and not isinstance(base, Solution):
            raise ValueError(f"base is of type {type(base).__name__}; give a Solution, as pretrain returns it")
        notes = adapters.read_notes(folder)
        problem = problem or adapters.build_problem(notes["problem"], folder)
        network = adapters.load(folder, notes, problem=problem, base=base.network if base else None)
        return cls(problem, network, base, (), Status(notes["status"]), notes["settings"])

    def plot(self, path: str | Path, *, field: int = 0) -> Path:
        """A picture of the solution and, where there is a reference, of its error, over the first two coordinates."""
        from pinn_lora.plots import plot_solution

        domain = self.problem.domain
        name = type(self.problem).__name__
        if domain.dimension != 2:  # a grid in many coordinates would be larger than the memory
            raise ValueError(f"plot draws problems with 2 coordinates; {name} has {domain.dimension}")
        label = numbered(self.problem.fields, field)
        axes, points = domain.grid(201)
        if not axes:
            raise ValueError(f"plot draws fields on a grid; the domain of {name} is a cloud of points")
        value = domain.image(axes, self.predict(points.numpy())[:, field])
        reference = None
        if self.problem.has_reference:
            reference = domain.image(axes, self.problem.reference_values(points)[:, field])
        title = f"{self.problem!r}"
        return plot_solution(
            path, axes=axes, names=domain.names, value=value, reference=reference, label=label, title=title
        )


def grid_points(problem: Problem) -> Tensor:
    """Where relative errors are taken: a regular grid that includes the boundary."""
    size = GRID.get(problem.domain.dimension)
    return problem.domain.grid(size)[1] if size else problem.domain.sample(40_000, seed=7)


def grid_reference(problem: Problem) -> np.ndarray:
    """The reference (n, fields) at the grid points; made once for all problems that are known to be the same."""
    known = identified(problem)
    return problem.reference_values(grid_points(problem)) if known is None else _cached_reference(known)


@lru_cache(maxsize=64)
def _cached_reference(known: Identified) -> np.ndarray:
    return known.problem.reference_values(grid_points(known.problem))


def stated_error(problem: Problem) -> float | None:
    """What the reference may itself err by, a relative L2 error as `relative_error` gives it; None where it has a closed form,
    states none, or fails: only reports read it, so that it stops nothing."""
    try:
        stated = problem.reference_error() if problem.has_reference else None
        return float(stated) if stated is not None and math.isfinite(stated) else None
    except Exception:  # the user's own code
        return None


def relative_error(found: np.ndarray, reference: np.ndarray) -> float:
    """||found - reference||_2 / ||reference||_2 over all points and fields; nan where `found` is not finite and where
    `reference` is zero."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        # no BLAS: its threads spin for a while after every call, on a run's clock
        error = float(np.sqrt(np.square(found - reference).sum() / np.square(reference).sum()))
    return error if math.isfinite(error) else math.nan
