"""A family's study: from a checked config to a results folder. An interrupted one is continued by running it again.

family_study.json, config.toml      what was asked, with versions, machine, the problem file's hash and all numbers
seed-<n>/base/                      the pretrained solution, with its history.csv
seed-<n>/family/                    one adapter a member, as `Family.save` writes them
seed-<n>/scratch/<member>/          members trained from scratch, to compare with, with their history.csv
seed-<n>/ranks/<member>-rank-<r>/   members adapted straight from the base, at every rank of `ranks`
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from pinn_lora.about import machine, versions
from pinn_lora.adapters import read_notes
from pinn_lora.config import ConfigError
from pinn_lora.families.config import FamilyConfig, check_family
from pinn_lora.families.equal_error import HISTORY, adapted_row, to_adapted
from pinn_lora.families.family import Family, check_members, error_of, solve_family
from pinn_lora.families.neighbours import coefficient_distance, varying
from pinn_lora.families.ranks import RankRun, make_ranks, plan_ranks, rank_rows
from pinn_lora.folders import alone, clear_partial, in_use, plain_path, whole, write_atomically
from pinn_lora.plan import check_pretraining, check_start, check_weights, rehearse
from pinn_lora.points import layer_points
from pinn_lora.presets import find_preset
from pinn_lora.problem import Problem
from pinn_lora.problem_file import problem_hashes
from pinn_lora.results import check_files, check_references, check_same, now, read_held, write_history
from pinn_lora.solution import Solution, Status, stated_error
from pinn_lora.training import network_for, pretrain
from pinn_lora.workers import each, torch_threads

RECORD = "family_study.json"


def run_family(
    config: FamilyConfig,
    folder: str | Path,
    *,
    command: str,
    source: str,
    origin: str | Path = ".",
    progress: bool = True,
) -> Path:
    """Makes what is missing of a family into `folder`: for every seed a base, its adapters, `from_scratch` members trained
    from scratch, and members adapted straight from the base at each of `ranks`. ConfigError for what cannot be solved and
    for a folder that holds something else, OSError for one that another process is at work in."""
    folder = plain_path(folder)
    base, members, runs = _plan(config, folder, origin)
    files = problem_hashes([config.problem], origin)
    check_references([base, *members])
    with alone(folder):
        started = _open(folder, config, source, files)
        told = {"command": command, "started": started, "problem_files": files}
        _make_missing(config, folder, base, members, runs, told, progress)
    return folder


def _make_missing(
    config: FamilyConfig,
    folder: Path,
    base: Problem,
    members: list[Problem],
    runs: list[RankRun],
    told: dict[str, Any],
    progress: bool,
) -> None:
    """Bases, adapters, runs from scratch and runs at ranks, and the record as it stands after each."""
    bases = [(config, base, folder / f"seed-{seed}" / "base", seed) for seed in config.seeds]
    _make(bases, config, "bases", progress)
    rows: list[dict[str, Any]] = []
    for seed in config.seeds:
        place = folder / f"seed-{seed}"
        family = _solve(config, Solution.load(place / "base", problem=base), members, place / "family", seed, progress)
        rows += [{"seed": seed, **row} for row in family.table()]
        _write(folder, config, told, base, members, rows, runs)
    chosen = _chosen(config, base, members)
    scratch = [
        (config, members[i], folder / f"seed-{seed}" / "scratch" / f"{i + 1:03d}", seed)
        for seed in config.seeds
        for i in chosen
    ]
    _make(scratch, config, "from scratch", progress)
    _write(folder, config, told, base, members, rows, runs)
    try:
        make_ranks(config, runs, progress=progress)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _write(folder, config, {**told, "finished": now()}, base, members, rows, runs)


def _plan(config: FamilyConfig, folder: Path, origin: str | Path) -> tuple[Problem, list[Problem], list[RankRun]]:
    """The problems and the runs at other ranks, once all is known to fit: ConfigError before anything is written or trained."""
    base, members = config.problems(origin=origin)
    try:
        check_members(base, members, config.method)
        coefficient_distance([base, *members])  # by which they are ordered
        if not varying([base, *members]):
            raise ValueError(f"no member differs from the base, {base!r}; give each the coefficients in which it does")
        network = network_for(base, config.network, width=config.width, depth=config.depth)
        rank = max(config.rank, *(config.ranks or [config.rank]))
        check_start(find_preset(config.method), network, start=config.initializer, rank=rank)
        runs = plan_ranks(config, base, members, folder, origin=origin)
        for member in members if config.points is None else ():
            layer_points(base, member)
        check_weights(config.chosen_weights or {}, base)
        check_pretraining(config.pretrain)
        for problem in [base, *members]:
            rehearse(problem, network, config.chosen_weights or {})
    except (ValueError, ImportError) as error:
        raise ConfigError(str(error)) from None
    return base, members, runs


def _open(folder: Path, config: FamilyConfig, source: str, files: dict[str, str]) -> str:
    """Makes the folder, or checks that it holds this very family; when it was begun."""
    held = folder / RECORD
    if held.is_file():
        record = read_held(held, keys=("config", "started"))
        check_same(folder, "family", record["config"], config, lambda: check_family(record["config"], where=RECORD))
        check_files(folder, record, files)
        for place in folder.glob("seed-*"):
            clear_partial(place)
            clear_partial(place / "scratch")
            clear_partial(place / "ranks")
        return record["started"]
    if in_use(folder):
        raise ConfigError(f"{folder} exists and is not a results folder; nothing was changed: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(source, encoding="utf-8")
    started = now()
    begun = {"config": _plain(config), "started": started, "problem_files": files, "rows": []}
    write_atomically(held, json.dumps(begun, indent=1) + "\n")
    return started


def _plain(config: FamilyConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True, exclude_none=True)


def _make(calls: list[tuple], config: FamilyConfig, what: str, progress: bool) -> None:
    """Pretrains what is not there yet of (config, problem, place, seed)."""
    missing = [call for call in calls if not call[2].is_dir()]
    try:
        each(_pretrain, missing, jobs=config.jobs, what=what, progress=progress)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _pretrain(config: FamilyConfig, problem: Problem, place: Path, seed: int, *, progress: bool) -> str:
    shape = {"network": config.network, "width": config.width, "depth": config.depth}
    options = {"weights": config.chosen_weights, "seed": seed, **config.pretrain.options}
    with torch_threads(config.threads):
        solution = pretrain(problem, compile=config.compile, progress=progress, **shape, **options)
    if place.name == "base" and solution.status is Status.DIVERGED:
        raise ValueError(f"pretraining of {problem!r} diverged with seed {seed}; no member was solved")
    with whole(place) as target:
        solution.save(target)
        write_history(target / HISTORY, solution.history)
    return f"{problem!r}: loss {solution.history[-1].held_out_loss:.1e}"


def _solve(
    config: FamilyConfig, base: Solution, members: list[Problem], place: Path, seed: int, progress: bool
) -> Family:
    shape = {name: getattr(config, name) for name in ("rank", "jobs", "threads", "points")}
    try:
        return solve_family(base, members, folder=place, seed=seed, progress=progress, **shape, **config.training)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _chosen(config: FamilyConfig, base: Problem, members: list[Problem]) -> list[int]:
    """Which members are also trained from scratch: evenly spread, both ends included, in the order of their coefficients."""
    varied = list(varying([base, *members]))
    order = sorted(range(len(members)), key=lambda i: [getattr(members[i], name) for name in varied])
    places = np.linspace(0, len(order) - 1, config.from_scratch).round().astype(int)
    return sorted({order[place] for place in places})


def _write(
    folder: Path,
    config: FamilyConfig,
    told: dict[str, Any],
    base: Problem,
    members: list[Problem],
    rows: list[dict[str, Any]],
    runs: list[RankRun],
) -> None:
    """Every number of the report into family_study.json; of what is not there yet nothing is said."""
    varied = list(varying([base, *members]))
    bases, scratch = [], []
    for seed in config.seeds:
        place = folder / f"seed-{seed}"
        bases.append({"seed": seed, **_pretrained(place / "base", base, varied)})
        for path in sorted(place.glob("scratch/[0-9]*")):
            made = {"seed": seed, **_pretrained(path, members[int(path.name) - 1], varied)}
            scratch.append(made | to_adapted(path / HISTORY, adapted_row(rows, made, varied)))
    record = {
        "config": _plain(config),
        "finished": None,
        **told,
        "versions": versions(),
        "machine": {**machine("cpu"), "threads": config.threads, "jobs": config.jobs},
        "base": repr(base),
        "varied": varied,
        "planned": {
            "members": len(members) * len(config.seeds),
            "scratch": config.from_scratch * len(config.seeds),
            "ranks": len(runs),
        },
        "bases": _finite(bases),
        "rows": _finite(rows),
        "scratch": _finite(scratch),
        "ranks": _finite(rank_rows(runs, varied)),
    }
    write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as JSON can hold them: None where a number is not finite."""
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]


def _pretrained(place: Path, problem: Problem, varied: list[str]) -> dict[str, Any]:
    """The row of a solution that was trained from scratch, from its folder."""
    solution, notes = Solution.load(place, problem=problem), read_notes(place)
    return {
        **{name: getattr(problem, name) for name in varied},
        "relative_l2": error_of(solution),
        "reference_error": stated_error(problem),
        "residual": solution.residual_norms()["residual"],
        "status": str(solution.status),
        "seconds": notes["seconds"],
        "points": solution.settings["points"],
    }
