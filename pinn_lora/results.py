"""A results folder on disk, written piece by piece and each piece whole or not at all.

study.json, config.toml            what was asked, with versions, machine and the hashes of problem files
bases/<base>/                      the pretrained solutions that cases share
cases/<case>.json, <case>.npz      zero-shot and base errors; test grid, reference and zero-shot prediction
runs/<run>/run.json, history.csv, field.npz
runs.zip                           in their place, what `archive` keeps of them
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinn_lora.about import machine, source, versions
from pinn_lora.adapters import read_notes
from pinn_lora.catalog import spelled, stem
from pinn_lora.config import ConfigError, Strict, StudyConfig, check_config
from pinn_lora.continuing import changed, meaning
from pinn_lora.domain import Domain
from pinn_lora.folders import PACKED_RUNS, clear_partial, in_use, read_json, unpack, write_atomically
from pinn_lora.method import Method
from pinn_lora.plan import Case, Job
from pinn_lora.problem import Problem
from pinn_lora.solution import Record, Solution, grid_reference, stated_error

GRID = 101  # points a coordinate of the saved fields


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_folder(folder: Path, config: StudyConfig, *, command: str, source: str, files: Mapping[str, str]) -> None:
    """Makes the folder, or checks that its study may go on as this one (`continuing`), of problems whose `files` have these
    hashes, and clears what a killed run left."""
    path = folder / "study.json"
    if path.is_file():
        held = read_held(path, keys=("config", "started"))
        other = changed(meaning(check_config(held["config"], where=str(path))), meaning(config))
        if other:
            raise ConfigError(_of_another("study", folder, other))
        check_files(folder, held, files)
        write_atomically(folder / "config.toml", source)
        for part in ("runs", "bases"):
            clear_partial(folder / part)
        unpack(folder / PACKED_RUNS, folder / "runs")
        return
    if in_use(folder):
        raise ConfigError(f"{folder} exists and is not a results folder; nothing was changed: choose another --out")
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    (folder / "runs").mkdir(exist_ok=True)
    write_atomically(folder / "config.toml", source)
    write_study(folder, config, [], command=command, files=files)


def read_held(path: Path, *, keys: Sequence[str]) -> dict[str, Any]:
    """What a folder's JSON file says; ConfigError for one that was cut short or is another's."""
    held = read_json(path)
    if held is None or not all(key in held for key in keys):
        raise ConfigError(
            f"{path} is damaged or not a study's: it must hold {' and '.join(keys)}; nothing was changed: choose another --out"
        )
    return held


def check_files(folder: Path, held: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """ConfigError where a problem's file is another than when the folder was begun; one that an older version began does not
    say which it was."""
    for name, digest in files.items():
        if held.get("problem_files", {}).get(name, digest) != digest:
            raise ConfigError(
                f"{name} was edited since {folder} was begun with it; nothing was changed: choose another --out, or put the "
                "file back as it was"
            )


def check_references(problems: Iterable[Problem]) -> None:
    """ConfigError where a reference cannot be computed: said before hours of training rather than after."""
    for problem in problems:
        try:
            if problem.has_reference:
                grid_reference(problem)  # at all points where errors are taken, the boundary's among them
        except Exception as error:
            raise ConfigError(f"the reference of {problem!r} cannot be computed: {error}; nothing was made") from error


def check_same(folder: Path, what: str, held: dict[str, Any], config: Strict, check: Callable[[], Strict]) -> None:
    """ConfigError where a folder's config is another: what was written by an older version lacks keys that have
    defaults now, and `check` brings them in."""
    with suppress(ConfigError):
        held = check().model_dump()
    given = config.model_dump()
    for key, now in given.items():
        if held.get(key) != now:
            raise ConfigError(_of_another(what, folder, f"{key} was {held.get(key)!r} and is {now!r}"))


def _of_another(what: str, folder: Path, other: str) -> str:
    return (
        f"{folder} holds a {what} of another config: {other}; nothing was changed: choose another --out, or set it back"
    )


def write_study(
    folder: Path,
    config: StudyConfig,
    cases: list[Case],
    *,
    command: str,
    files: Mapping[str, str],
    planned: int = 0,
    finished: str | None = None,
) -> None:
    """study.json: what was asked, on what machine, how many runs are planned; `finished` once all are there."""
    path = folder / "study.json"
    started = json.loads(path.read_text())["started"] if path.is_file() else now()
    described = [read_json(folder / "cases" / f"{case.id}.json") for case in cases]
    study = {
        "name": config.name,
        "title": config.title,
        "description": config.description,
        "comparison": config.comparison,
        "command": command,
        "started": started,
        "finished": finished,
        "planned": planned,
        "versions": versions(),
        "machine": {**machine(config.device), "threads": config.threads, "jobs": config.jobs},
        "seeds": config.seeds,
        "config": config.model_dump(mode="json"),
        "problem_files": dict(files),
        "methods": _sources(config),
        "cases": described,
    }
    write_atomically(path, json.dumps(study, indent=1) + "\n")


def _sources(config: StudyConfig) -> dict[str, dict[str, Any]]:
    """What each method is and where it is from, as its preset says; of one of the study's own parts, its parts."""
    found = {}
    for method in config.method:
        preset = method.preset()
        found[method.name] = {
            "description": preset.description or repr(preset.method),
            "source": preset.source,
            "reconstructed": preset.reconstructed,
        }
    return found


def has_base(case: Case, folder: Path) -> bool:
    """Whether the case's pretrained solution is there."""
    return (folder / "bases" / case.base_id / "pinn_lora.json").is_file()


def load_base(case: Case, folder: Path) -> Solution:
    """The pretrained solution of a case. ConfigError for one that is damaged, which is not a run's fault."""
    place = folder / "bases" / case.base_id
    try:
        return Solution.load(place, problem=case.base)
    except ValueError as error:
        raise ConfigError(f"{error}; remove the folder {place}, and the base is made again") from None


def is_described(case: Case, folder: Path) -> bool:
    """Whether `describe_case` was done, and what it wrote can be read."""
    said = read_json(folder / "cases" / f"{case.id}.json")
    return said is not None and said.get("id") == case.id


def describe_case(case: Case, folder: Path) -> None:
    """The case's line of study.json and its reference and zero-shot fields, made once."""
    if is_described(case, folder):
        return
    path = folder / "cases" / f"{case.id}.json"
    base = load_base(case, folder)
    zero_shot = Solution(case.target, base.network)
    notes = read_notes(folder / "bases" / case.base_id)
    form = getattr(case.target, "form", "")
    described = {
        "id": case.id,
        "title": f"{_title(case)}, {case.network}, {case.adapter}",
        "problem": type(case.target).__name__,
        "base": repr(case.base),
        "target": repr(case.target),
        "form": form,
        "network": case.network,
        "rank": case.config.rank,
        "zero_shot": zero_shot.relative_l2() if case.target.has_reference else None,
        "base_error": base.relative_l2() if case.base.has_reference else None,
        "reference_error": stated_error(case.target),
        "base_reference_error": stated_error(case.base),
        "base_seconds": notes["seconds"],
        "unknowns_full": sum(p.numel() for p in base.network.parameters()),
    }
    _write_fields(path.with_suffix(".npz"), zero_shot)
    write_atomically(path, json.dumps(described, indent=1) + "\n")


def _write_fields(path: Path, zero_shot: Solution) -> None:
    """The test grid with what the base predicts and, where there is one, the reference; nan outside of the domain."""
    problem = zero_shot.problem
    domain = problem.domain
    axes, points = _grid(domain)
    if not axes:
        return
    arrays: dict[str, Any] = {"axis_0": axes[0], "axis_1": axes[1], "names": np.array(domain.names)}
    arrays["zero_shot"] = domain.image(axes, zero_shot.predict(points.numpy())[:, 0])
    if problem.has_reference:
        arrays["reference"] = domain.image(axes, problem.reference_values(points)[:, 0])
    np.savez_compressed(path, **arrays)


def _grid(domain: Domain) -> tuple[list[np.ndarray], Tensor]:
    """The axes and points of the saved fields; no axes where nothing can be drawn: a point cloud, or not two coordinates,
    where a grid could also be larger than the memory."""
    return domain.grid(GRID) if domain.dimension == 2 else ([], torch.empty(0, domain.dimension))


def _title(case: Case) -> str:
    """What changes between base and target, as the config writes it, and the form."""
    changed = []
    for field in fields(case.base):  # type: ignore[arg-type]
        ends = [
            (getattr(case.base, field.name), case.config.base),
            (getattr(case.target, field.name), case.config.target),
        ]
        if ends[0][0] != ends[1][0]:
            changed.append(
                f"{field.name} " + " -> ".join(str(written.get(field.name, value)) for value, written in ends)
            )
    form = getattr(case.target, "form", "")
    return f"{type(case.target).__name__} {', '.join(changed) or 'unchanged'}" + (f", {form} form" if form else "")


def describe_run(job: Job) -> dict[str, Any]:
    """What is known of a run before it is made: what is asked, the method's parts with all their options, and what makes it.

    `idle` are the options, by their places in `parts`, that do nothing in this run; `mass` is that of the flow.
    """
    preset, flow = job.method.preset(), None
    parts: dict[str, Any] = spelled(preset.method)
    if isinstance(preset.method, Method):
        flow = preset.method
        del parts["name"]
    else:
        parts = {"optimizer": parts}
    own = [job.method.metric, job.method.lift, job.method.integrator, job.method.optimizer]
    whole = preset.trains == "all weights"
    return {
        "id": job.id,
        "case": job.case.id,
        "method": job.method.name,
        "preset": job.method.name if all(part is None for part in own) and not job.method.decay else None,
        "start": job.start or "pretrained",
        "trains": preset.trains,
        "metric": stem(flow.metric) if flow else None,
        "lift": None if whole or not flow else stem(flow.lift),
        "integrator": stem(flow.integrator) if flow else None,
        "optimizer": None if flow else stem(preset.method),
        "implicit": preset.method.implicit,
        "adaptive": preset.method.adaptive,
        "bends": flow.integrator.bends if flow else False,
        "order": flow.integrator.order if flow else None,
        "mass": flow.lift.mass_name if flow else None,
        "parts": parts,
        "idle": [f"integrator.{option}" for option in flow.integrator.control] if flow and not flow.adaptive else [],
        "step_size": job.step_size,
        "rank": None if whole else job.case.config.rank,
        "seed": job.seed,
        "source": source(),
        "versions": versions(),
        "machine": machine(),
        "message": "",
        **dict.fromkeys(("unknowns", "status", "relative_l2", "held_out_loss", "steps", "accepted", "seconds", "work")),
        **dict.fromkeys(
            ("reference_error", "unit_seconds", "clock", "threads", "compile_seconds", "counts", "peak_memory_mib")
        ),
    }


def outcome(solution: Solution) -> dict[str, Any]:
    """What is known of a run once it is made; null for what is not finite."""
    last, settings = solution.history[-1], solution.settings
    number = lambda value: value if math.isfinite(value) else None  # noqa: E731
    device = next(solution.network.parameters()).device
    return {
        "status": str(solution.status),
        "machine": machine(str(device)),
        "unknowns": settings["unknowns"],
        "relative_l2": number(last.relative_l2),
        "reference_error": stated_error(solution.problem),
        "held_out_loss": number(last.held_out_loss),
        "steps": last.step,
        "accepted": settings["accepted"],
        "seconds": last.seconds,
        "work": last.work,
        "unit_seconds": settings["unit_seconds"],
        "clock": settings["clock"],
        "threads": settings["threads"],
        "compile_seconds": settings["compile_seconds"],
        "counts": settings["work"],
    }


def write_history(path: Path, history: tuple[Record, ...]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Record)])
        writer.writeheader()
        for record in history:
            writer.writerow({name: f"{x:.7g}" if isinstance(x, float) else x for name, x in asdict(record).items()})


def write_field(path: Path, solution: Solution) -> None:
    domain = solution.problem.domain
    axes, points = _grid(domain)
    if axes:
        found = domain.image(axes, solution.predict(points.numpy())[:, 0])
        np.savez_compressed(path, prediction=found.astype(np.float32))
