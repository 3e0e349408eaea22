"""A study: from a checked config to a results folder. Every run is a folder of its own, made whole or not at all.

    study.json, config.toml            what was asked, with versions and machine
    bases/<base>/                      the pretrained solutions that cases share
    cases/<case>.npz                   test grid, reference and zero-shot prediction
    runs/<run>/run.json, history.csv, field.npz
An interrupted study is continued by running it again: only what is missing is run.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

import pinn_lora
from pinn_lora.adapters import read_notes
from pinn_lora.config import CaseConfig, ConfigError, MethodConfig, StudyConfig, load_problem
from pinn_lora.flow import Method
from pinn_lora.lora import adapt
from pinn_lora.memory import peak_memory_mib, reset_peak_memory
from pinn_lora.network import MLP
from pinn_lora.problem import Problem
from pinn_lora.solution import Record, Solution, Status
from pinn_lora.training import finetune, pretrain

PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "deepxde", "pyDOE")
GRID = 101  # points a coordinate of the saved fields


@dataclass(frozen=True)
class Case:
    """A case with its problems built and the names of its folders."""

    id: str
    base_id: str
    config: CaseConfig
    base: Problem
    target: Problem

    @property
    def network(self) -> str:
        return f"{self.config.depth} x {self.config.width}"


@dataclass(frozen=True)
class Job:
    """One run: a case, a method from a start with a first step size, and a seed."""

    case: Case
    method: MethodConfig
    start: str | None
    step_size: float
    seed: int

    @property
    def id(self) -> str:
        start = self.start or "pretrained"
        return f"{self.case.id}--{self.method.name}--{start}--h{self.step_size:.0e}--seed{self.seed}"


def _slug(problem: Problem) -> str:
    parts = [type(problem).__name__.lower()]
    for field in fields(problem):  # type: ignore[arg-type]
        value = getattr(problem, field.name)
        parts.append(f"{field.name}{value:.4g}" if isinstance(value, float) else str(value))
    return re.sub(r"[^A-Za-z0-9.+-]", "-", "-".join(parts))


def plan_cases(config: StudyConfig) -> list[Case]:
    """The cases with problems and network checked. ConfigError for coefficients, ranks and devices that do not fit."""
    found = []
    for number, case in enumerate(config.case, start=1):
        base, target = load_problem(case.problem, case.base), load_problem(case.problem, case.target)
        shape = f"{case.depth}x{case.width}"
        network = MLP(base.domain, fields=len(base.fields), width=case.width, depth=case.depth, periodic=base.periodic)
        try:
            adapt(network, rank=case.rank)
            network.to(config.device)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ConfigError(f"case {number}: {str(error).splitlines()[0]}") from None
        base_id = f"{_slug(base)}-{shape}"
        if case.pretrain != type(case.pretrain)():
            settings = case.pretrain.model_dump(exclude_none=True)
            base_id += "-" + "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in settings.values())
        found.append(Case(f"{number:02d}-{_slug(base)}-to-{_slug(target)}-{shape}-r{case.rank}", base_id, case, base, target))
    return found


def plan_jobs(config: StudyConfig, cases: list[Case]) -> list[Job]:
    """Every run of the study; for a case without a full scan, the first seed's, by which the step size is tuned."""
    found = []
    for number, case in enumerate(cases, start=1):
        for method in config.method:
            if method.cases is not None and number not in method.cases:
                continue
            preset = method.preset()
            starts: list[str | None] = [None]
            if preset.trains == "factors":
                starts = list(method.starts or [preset.initializer])
            step_sizes = method.step_sizes or [preset.step_size]
            tuned = len(step_sizes) > 1 and not case.config.full_scan
            seeds = config.seeds[:1] if tuned else config.seeds
            found += [Job(case, method, start, h, seed) for start in starts for h in step_sizes for seed in seeds]
    return found


def tuned_jobs(config: StudyConfig, jobs: list[Job], folder: Path) -> list[Job]:
    """For cases without a full scan: the other seeds at the step size whose first run ended with the lowest held-out loss."""
    groups: dict[tuple[str, str, str | None], list[Job]] = {}
    for job in jobs:
        if not job.case.config.full_scan:
            groups.setdefault((job.case.id, job.method.name, job.start), []).append(job)
    found = []
    for group in groups.values():
        if len({job.step_size for job in group}) == 1:
            continue
        best = min(group, key=lambda job: _final_loss(folder / "runs" / job.id / "run.json"))
        found += [Job(best.case, best.method, best.start, best.step_size, seed) for seed in config.seeds[1:]]
    return found


def _final_loss(path: Path) -> float:
    run = json.loads(path.read_text())
    loss = run["held_out_loss"]
    return math.inf if run["status"] in ("DIVERGED", "REFUSED") or loss is None else loss


def run_study(config: StudyConfig, folder: str | Path, *, command: str, source: str, progress: bool = True) -> Path:
    """Runs what is missing of a study into `folder`. ConfigError for a folder that holds something else."""
    folder = Path(folder)
    cases = plan_cases(config)
    jobs = plan_jobs(config, cases)
    _open_folder(folder, config, command=command, source=source)
    bases = {case.base_id: case for case in cases if not (folder / "bases" / case.base_id / "pinn_lora.json").is_file()}
    _each(_make_base, [(config, case, folder) for case in bases.values()], config, "bases", progress)
    for case in cases:
        _describe_case(case, folder)
    _write_study(folder, config, cases, command=command)
    _run_jobs(jobs, config, folder, progress)
    _run_jobs(tuned_jobs(config, jobs, folder), config, folder, progress)
    _write_study(folder, config, cases, command=command, finished=_now())
    return folder


def _run_jobs(jobs: list[Job], config: StudyConfig, folder: Path, progress: bool) -> None:
    missing = [(config, job, folder) for job in jobs if not (folder / "runs" / job.id / "run.json").is_file()]
    _each(_make_run, missing, config, "runs", progress)


def _each(function: Any, arguments: list[tuple], config: StudyConfig, what: str, progress: bool) -> None:
    """Calls the function for each, in this process or in `jobs` others, with a bar of what is done and time left."""
    if not arguments:
        return
    inner = progress and config.jobs == 1
    calls = (delayed(function)(*a, progress=inner) for a in arguments)
    results: Iterator[str] = Parallel(n_jobs=config.jobs, return_as="generator_unordered")(calls)  # type: ignore[assignment]
    with tqdm(total=len(arguments), desc=what, unit="run", disable=not progress, dynamic_ncols=True) as bar:
        for line in results:
            bar.set_postfix_str(line)
            bar.update()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _open_folder(folder: Path, config: StudyConfig, *, command: str, source: str) -> None:
    """Makes the folder, or checks that it holds this very study."""
    held = folder / "study.json"
    if held.is_file():
        if json.loads(held.read_text())["config"] != config.model_dump(mode="json"):
            raise ConfigError(f"{folder} holds a study of another config; nothing was changed: choose another --out")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not a results folder; nothing was changed: choose another --out")
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "config.toml").write_text(source)
    _write_study(folder, config, [], command=command)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def _write_study(folder: Path, config: StudyConfig, cases: list[Case], *, command: str, finished: str | None = None) -> None:
    path = folder / "study.json"
    started = json.loads(path.read_text())["started"] if path.is_file() else _now()
    described = [json.loads((folder / "cases" / f"{case.id}.json").read_text()) for case in cases]
    study = {
        "name": config.name,
        "title": config.title,
        "description": config.description,
        "comparison": config.comparison,
        "command": command,
        "started": started,
        "finished": finished,
        "versions": versions(),
        "machine": machine(config),
        "seeds": config.seeds,
        "config": config.model_dump(mode="json"),
        "cases": described,
    }
    _write_atomically(path, json.dumps(study, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Of this package, Python and what the numbers depend on."""
    found = {"pinn_lora": pinn_lora.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def machine(config: StudyConfig) -> dict[str, Any]:
    """What the runs ran on."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        processor = found[1].strip() if found else processor
    if config.device != "cpu" and torch.cuda.is_available():
        processor += f", {torch.cuda.get_device_name(config.device)}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1) if memory else None,
        "threads": config.threads,
        "jobs": config.jobs,
    }


def _make_base(config: StudyConfig, case: Case, folder: Path, *, progress: bool) -> str:
    torch.set_num_threads(config.threads)
    options = case.config.pretrain.model_dump(exclude_none=True)
    base = pretrain(
        case.base,
        width=case.config.width,
        depth=case.config.depth,
        weights=_weights(case, case.base),
        seed=0,
        dtype=config.dtype,
        device=config.device,
        progress=progress,
        **options,
    )
    if base.status == Status.DIVERGED:
        raise ConfigError(f"pretraining of {case.base!r} diverged; no run was made")
    with _whole(folder / "bases" / case.base_id) as place:
        base.save(place)
    return f"{case.base_id}: loss {base.history[-1].held_out_loss:.1e}"


def _weights(case: Case, problem: Problem) -> dict[str, float]:
    return {name: value for name, value in case.config.weights.items() if name in [n for n, _, _ in problem.terms()]}


class _whole:
    """A folder that appears with all of its content or not at all."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.target.parent))
        return self.work

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            shutil.rmtree(self.target, ignore_errors=True)
            os.replace(self.work, self.target)
        else:
            shutil.rmtree(self.work, ignore_errors=True)


def _load_base(case: Case, folder: Path) -> Solution:
    return Solution.load(folder / "bases" / case.base_id, problem=case.base)


def _describe_case(case: Case, folder: Path) -> None:
    """The case's line of study.json and its reference and zero-shot fields, made once."""
    path = folder / "cases" / f"{case.id}.json"
    if path.is_file():
        return
    base = _load_base(case, folder)
    zero_shot = Solution(case.target, base.network)
    notes = read_notes(folder / "bases" / case.base_id)
    form = getattr(case.target, "form", "")
    described = {
        "id": case.id,
        "title": f"{_title(case)}, {case.network}, rank {case.config.rank}",
        "problem": type(case.target).__name__,
        "base": repr(case.base),
        "target": repr(case.target),
        "form": form,
        "network": case.network,
        "rank": case.config.rank,
        "zero_shot": zero_shot.relative_l2() if case.target.has_reference else None,
        "base_error": base.relative_l2() if case.base.has_reference else None,
        "base_seconds": notes["seconds"],
        "unknowns_full": sum(p.numel() for p in base.network.parameters()),
    }
    axes, points = case.target.domain.grid(GRID)
    if len(axes) == 2:
        shape = tuple(len(axis) for axis in axes)
        arrays: dict[str, Any] = {"axis_0": axes[0], "axis_1": axes[1], "names": np.array(case.target.domain.names)}
        arrays["zero_shot"] = zero_shot.predict(points.numpy())[:, 0].reshape(shape)
        if case.target.has_reference:
            arrays["reference"] = case.target.reference_values(points)[:, 0].reshape(shape)
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
    _write_atomically(path, json.dumps(described, indent=1) + "\n")


def _title(case: Case) -> str:
    """What changes between base and target, and the form."""
    changed = [
        f"{f.name} {getattr(case.base, f.name):.4g} -> {getattr(case.target, f.name):.4g}"
        for f in fields(case.base)  # type: ignore[arg-type]
        if isinstance(getattr(case.base, f.name), float) and getattr(case.base, f.name) != getattr(case.target, f.name)
    ]
    form = getattr(case.target, "form", "")
    return f"{type(case.target).__name__} {', '.join(changed) or 'unchanged'}" + (f", {form} form" if form else "")


def _make_run(config: StudyConfig, job: Job, folder: Path, *, progress: bool) -> str:
    torch.set_num_threads(config.threads)
    preset, case = job.method.preset(), job.case
    max_steps = job.method.max_steps or preset.max_steps
    run = _describe_run(job)
    solution = None
    reset_peak_memory()
    try:
        solution = finetune(
            _load_base(case, folder),
            case.target,
            method=job.method.name if job.method.name == run["preset"] else preset.method,
            rank=case.config.rank,
            initializer=job.start,
            step_size=job.step_size,
            max_steps=max_steps,
            max_seconds=job.method.max_seconds,
            points=config.points,
            resample_every=max(1, max_steps // (config.resamplings + 1)) if config.resamplings else None,
            weights=_weights(case, case.target),
            seed=job.seed,
            dtype=config.dtype,
            device=config.device,
            progress=progress,
        )
    except (ValueError, MemoryError) as error:
        run |= {"status": "REFUSED", "message": str(error)}
    else:
        run |= _results(solution)
        run["peak_memory_mib"] = peak_memory_mib(config.device)
    with _whole(folder / "runs" / job.id) as place:
        if solution is not None:
            _write_history(place / "history.csv", solution.history)
            _write_field(place / "field.npz", solution)
        (place / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    return f"{job.method.name} h={job.step_size:.0e}: {run['status']}, loss {run['held_out_loss'] or math.nan:.1e}"


def _describe_run(job: Job) -> dict[str, Any]:
    preset = job.method.preset()
    flow = preset.method if isinstance(preset.method, Method) else None
    stem = lambda part: type(part).__module__.rpartition(".")[2]  # noqa: E731
    implicit = bool(flow and flow.integrator.implicit)
    whole = preset.trains == "all weights"
    parts = [job.method.metric, job.method.lift, job.method.integrator, job.method.optimizer]
    return {
        "id": job.id,
        "case": job.case.id,
        "method": job.method.name,
        "preset": job.method.name if all(part is None for part in parts) else None,
        "start": job.start or "pretrained",
        "trains": preset.trains,
        "metric": stem(flow.metric) if flow else None,
        "lift": None if whole or not flow else stem(flow.lift),
        "integrator": stem(flow.integrator) if flow else None,
        "optimizer": None if flow else stem(preset.method),
        "implicit": implicit,
        "adaptive": (flow.integrator if flow else preset.method).adaptive,
        "mass": None if not flow else "balanced" if stem(flow.lift) == "balanced" else "identity",
        "step_size": job.step_size,
        "rank": None if whole else job.case.config.rank,
        "seed": job.seed,
        "message": "",
        **dict.fromkeys(("unknowns", "status", "relative_l2", "held_out_loss", "steps", "accepted", "seconds", "work")),
        **dict.fromkeys(("unit_seconds", "threads", "counts", "peak_memory_mib")),
    }


def _results(solution: Solution) -> dict[str, Any]:
    last, settings = solution.history[-1], solution.settings
    number = lambda value: value if math.isfinite(value) else None  # noqa: E731
    return {
        "status": str(solution.status),
        "unknowns": settings["unknowns"],
        "relative_l2": number(last.relative_l2),
        "held_out_loss": number(last.held_out_loss),
        "steps": last.step,
        "accepted": settings["accepted"],
        "seconds": last.seconds,
        "work": last.work,
        "unit_seconds": settings["unit_seconds"],
        "threads": settings["threads"],
        "counts": settings["work"],
    }


def _write_history(path: Path, history: tuple[Record, ...]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Record)])
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)


def _write_field(path: Path, solution: Solution) -> None:
    axes, points = solution.problem.domain.grid(GRID)
    if len(axes) == 2:
        found = solution.predict(points.numpy())[:, 0].reshape(tuple(len(axis) for axis in axes))
        np.savez_compressed(path, prediction=found.astype(np.float32))


