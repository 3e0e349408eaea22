"""Rank against distance: members adapted straight from the base, once at every rank, at the points and steps of the family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pinn_lora.adapters import read_notes
from pinn_lora.families.config import FamilyConfig
from pinn_lora.families.family import error_of
from pinn_lora.families.neighbours import coefficient_distance
from pinn_lora.folders import whole
from pinn_lora.points import layer_points
from pinn_lora.problem import Problem
from pinn_lora.solution import Solution, stated_error
from pinn_lora.training import finetune
from pinn_lora.workers import each, torch_threads


@dataclass(frozen=True)
class RankRun:
    """One adaptation of a member from the base of a seed; `place` is where it is kept, `pretrained` where that base is."""

    base: Problem
    member: Problem
    distance: float
    points: int
    rank: int
    seed: int
    pretrained: Path
    place: Path


def plan_ranks(
    config: FamilyConfig, base: Problem, members: Sequence[Problem], folder: Path, *, origin: str | Path = "."
) -> list[RankRun]:
    """Every member at every rank and seed, nearest first; empty where the config asks for none. The distance is that by which
    the family is ordered. ValueError for coefficients that have none."""
    chosen = config.rank_problems(base, members, origin=origin)
    if not chosen:
        return []
    distance = coefficient_distance([base, *members, *chosen])
    far = [distance(base, member) for member in chosen]
    found = []
    for seed in config.rank_seeds or config.seeds[:1]:
        kept = folder / f"seed-{seed}"
        for i in sorted(range(len(chosen)), key=far.__getitem__):
            points = config.points or layer_points(base, chosen[i])
            for rank in sorted(config.ranks or []):
                place = kept / "ranks" / f"{i + 1:03d}-rank-{rank}"
                found.append(RankRun(base, chosen[i], far[i], points, rank, seed, kept / "base", place))
    return found


def make_ranks(config: FamilyConfig, runs: Sequence[RankRun], *, progress: bool) -> None:
    """Makes the runs that are not there yet, each whole or not at all."""
    missing = [(config, run) for run in runs if not run.place.is_dir()]
    each(_adapt, missing, jobs=config.jobs, what="ranks", progress=progress)


def _adapt(config: FamilyConfig, run: RankRun, *, progress: bool) -> str:
    with torch_threads(config.threads):
        base = Solution.load(run.pretrained, problem=run.base)
        shape = {"rank": run.rank, "points": run.points, "seed": run.seed}
        solution = finetune(base, run.member, progress=progress, **shape, **config.training)
    with whole(run.place) as target:
        solution.save(target)
    return f"{run.member!r}, rank {run.rank}: {solution.status}"


def rank_rows(runs: Sequence[RankRun], varied: Sequence[str]) -> list[dict[str, Any]]:
    """A row for every run that is there: the member's coefficients and distance, rank, unknowns, errors and residual norms of
    the unchanged base and of the member, status, seconds."""
    return [_row(run, varied) for run in runs if run.place.is_dir()]


def _row(run: RankRun, varied: Sequence[str]) -> dict[str, Any]:
    base = Solution.load(run.pretrained, problem=run.base)
    solution = Solution.load(run.place, base=base, problem=run.member)
    zero_shot = solution.zero_shot()
    return {
        "seed": run.seed,
        **{name: getattr(run.member, name) for name in varied},
        "distance": run.distance,
        "rank": run.rank,
        "unknowns": solution.settings["unknowns"],
        "points": run.points,
        "zero_shot": error_of(zero_shot),
        "relative_l2": error_of(solution),
        "reference_error": stated_error(run.member),
        "zero_shot_residual": zero_shot.residual_norms()["residual"],
        "residual": solution.residual_norms()["residual"],
        "status": str(solution.status),
        "seconds": read_notes(run.place)["seconds"],
    }
