"""A study: from a checked config to a results folder. An interrupted one is continued by running it again: only what is
missing is run, and runs that were under way leave nothing behind."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from pinn_lora.config import ConfigError, StudyConfig
from pinn_lora.folders import alone, plain_path, read_run, whole
from pinn_lora.memory import peak_memory_mib, reset_peak_memory
from pinn_lora.plan import Case, Job, count_tuned, plan_cases, plan_jobs, tuned_jobs, weights_of
from pinn_lora.problem_file import problem_hashes
from pinn_lora.results import (
    check_references,
    describe_case,
    describe_run,
    has_base,
    is_described,
    load_base,
    now,
    open_folder,
    outcome,
    write_field,
    write_history,
    write_study,
)
from pinn_lora.solution import Status
from pinn_lora.training import finetune, pretrain
from pinn_lora.workers import each


def run_study(
    config: StudyConfig,
    folder: str | Path,
    *,
    command: str,
    source: str,
    origin: str | Path = ".",
    only: Sequence[int] = (),
    progress: bool = True,
) -> Path:
    """Runs what is missing of a study into `folder`, or of the cases with the numbers in `only`; the paths of its problems are
    taken from the folder `origin`. ConfigError for a folder that holds something else, OSError for one that another process is
    at work in."""
    folder = plain_path(folder)
    cases = plan_cases(config, origin=origin)
    jobs = plan_jobs(config, cases)
    for number in only:
        if not 1 <= number <= len(cases):
            raise ConfigError(f"there is no case {number}; the study has {len(cases)}, numbered from 1")
    asked = [case for number, case in enumerate(cases, start=1) if not only or number in only]
    files = problem_hashes([case.problem for case in config.case], origin)
    check_references(problem for case in cases for problem in (case.base, case.target))
    with alone(folder):
        open_folder(folder, config, command=command, source=source, files=files)
        described = {"command": command, "files": files, "planned": len(jobs) + count_tuned(config, jobs)}
        _make_missing(config, folder, cases, asked, jobs, described, progress)
    return folder


def _make_missing(
    config: StudyConfig,
    folder: Path,
    cases: list[Case],
    asked: list[Case],
    jobs: list[Job],
    described: dict[str, Any],
    progress: bool,
) -> None:
    """Bases, cases and runs of the cases that are asked for, and study.json as it stands, `described` in it."""
    for _, group in groupby(asked, key=lambda case: case.network):  # what a smaller network shows is there first
        new = list(group)
        bases = {case.base_id: case for case in new if not has_base(case, folder)}
        waiting = [(config, case, folder) for case in bases.values()]
        each(_make_base, waiting, jobs=config.jobs, what="bases", progress=progress)
        for case in new:
            describe_case(case, folder)
        write_study(folder, config, _begun(cases, folder), **described)
        first = [job for job in jobs if job.case in new]
        _run_jobs(first, config, folder, progress)
        _run_jobs(tuned_jobs(config, first, folder), config, folder, progress)
    ended = all(_is_made(job, folder) for job in [*jobs, *tuned_jobs(config, jobs, folder)])
    finished = now() if ended else None
    write_study(folder, config, _begun(cases, folder), **described, finished=finished)


def _begun(cases: list[Case], folder: Path) -> list[Case]:
    return [case for case in cases if is_described(case, folder)]


def _is_made(job: Job, folder: Path) -> bool:
    return read_run(folder / "runs" / job.id) is not None


def _run_jobs(jobs: list[Job], config: StudyConfig, folder: Path, progress: bool) -> None:
    missing = [(config, job, folder) for job in jobs if not _is_made(job, folder)]
    each(_make_run, missing, jobs=config.jobs, what="runs", progress=progress)


def _make_base(config: StudyConfig, case: Case, folder: Path, *, progress: bool) -> str:
    torch.set_num_threads(config.threads)
    options = case.config.pretrain.options
    base = pretrain(
        case.base,
        network=case.config.network,
        width=case.config.width,
        depth=case.config.depth,
        weights=weights_of(case.config, case.base),
        seed=0,
        dtype=config.dtype,
        device=config.device,
        compile=config.compile,
        progress=progress,
        **options,
    )
    if base.status == Status.DIVERGED:
        raise ConfigError(f"pretraining of {case.base!r} diverged; no run was made")
    with whole(folder / "bases" / case.base_id) as place:
        base.save(place)
    return f"{case.base_id}: loss {base.history[-1].held_out_loss:.1e}"


def _make_run(config: StudyConfig, job: Job, folder: Path, *, progress: bool) -> str:
    torch.set_num_threads(config.threads)
    preset, case = job.method.preset(), job.case
    max_steps = job.method.max_steps or preset.max_steps
    run = describe_run(job)
    base, solution = load_base(case, folder), None
    reset_peak_memory()
    try:
        solution = finetune(
            base,
            case.target,
            method=job.method.name if job.method.name == run["preset"] else preset,
            rank=case.config.rank,
            scale=case.config.scale if preset.trains == "factors" else None,
            initializer=job.start,
            step_size=job.step_size,
            max_steps=max_steps,
            max_seconds=job.method.max_seconds,
            points=job.case.config.points or config.points,
            resample_every=math.ceil(max_steps / (config.resamplings + 1)) if config.resamplings else None,
            weights=weights_of(case.config, case.target),
            seed=job.seed,
            dtype=config.dtype,
            device=config.device,
            compile=config.compile,
            progress=progress,
        )
    except (ValueError, MemoryError) as error:
        run |= {"status": "REFUSED", "message": str(error)}
    else:
        run |= outcome(solution)
        run["peak_memory_mib"] = peak_memory_mib(config.device)
    with whole(folder / "runs" / job.id) as place:
        if solution is not None:
            write_history(place / "history.csv", solution.history)
            write_field(place / "field.npz", solution)
        (place / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    return f"{job.method.name} h={job.step_size:.0e}: {run['status']}, loss {run['held_out_loss'] or math.nan:.1e}"
