"""What a study will run: its cases, checked, and its runs."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pinn_lora import initializers
from pinn_lora.catalog import build
from pinn_lora.config import CaseConfig, ConfigError, MethodConfig, PretrainConfig, StudyConfig, load_problem
from pinn_lora.declaration import not_frozen
from pinn_lora.devices import check_device
from pinn_lora.folders import read_run
from pinn_lora.initializers import Initializer, Probe
from pinn_lora.loop import first_loss
from pinn_lora.lora import Blocks, adapt, merge, target_layers
from pinn_lora.networks import Network
from pinn_lora.objective import Objective
from pinn_lora.places import ProblemError
from pinn_lora.points import first_points
from pinn_lora.presets import PRESETS, Preset
from pinn_lora.problem import Problem
from pinn_lora.problem_file import problem_hashes
from pinn_lora.rslora import RSLoRA, Scale, scale_of
from pinn_lora.training import check_coordinates, network_for, pretraining_phases

LONGEST = 250  # characters of a folder's name; file systems take 255


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
        """As a title says it; networks that differ are told from each other."""
        shape, spec = f"{self.config.depth} x {self.config.width}", self.config.network
        options = {"name": spec} if isinstance(spec, str) else spec
        told = [f"{key} {value}" for key, value in sorted(options.items()) if key != "name"]
        name = options.get("name", "mlp")
        return ", ".join([shape if name == "mlp" else f"{name} {shape}", *told])

    @property
    def adapter(self) -> str:
        """Rank and scale as a title says them."""
        return f"rank {self.config.rank}" + (f", {told}" if (told := _scale_told(self.config)) else "")


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
        return f"{self.case.id}--{self.method.name}--{start}--h{self.step_size:g}--seed{self.seed}"


def _scale_told(case: CaseConfig) -> str:
    """The scale of a case's adapters where it is not 1."""
    scale = scale_of(case.scale)
    if isinstance(scale, RSLoRA):
        return "rslora" if scale == RSLoRA() else f"rslora alpha {scale.alpha:g}"
    return "" if scale == 1.0 else f"scale {scale:g}"


def _fitting(name: str) -> str:
    """The name itself, or where it leaves too little room for a run's method and seed, its beginning and its hash."""
    return name if len(name) <= 150 else f"{name[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _slug(problem: Problem) -> str:
    parts = [type(problem).__name__.lower()]
    for field in fields(problem):  # type: ignore[arg-type]
        value = getattr(problem, field.name)
        parts.append(f"{field.name}{value:.4g}" if isinstance(value, float) else str(value))
    return re.sub(r"[^A-Za-z0-9.+-]", "-", "-".join(parts))


def plan_cases(config: StudyConfig, *, origin: str | Path = ".") -> list[Case]:
    """The cases with problems, network and methods checked; the paths of problems are taken from the folder `origin`.
    ConfigError for coefficients, ranks, starts and devices that do not fit, ProblemError for problems that cannot be run."""
    found = []
    try:
        check_device(config.device, getattr(torch, config.dtype))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _check_methods(config.method)
    for number, case in enumerate(config.case, start=1):
        base, target = (load_problem(case.problem, values, folder=origin) for values in (case.base, case.target))
        if not is_dataclass(base):
            raise ConfigError(not_frozen(type(base)))
        shape = f"{case.depth}x{case.width}"
        try:
            _check_case(case, base, target, methods_of(config, number), dtype=config.dtype)
        except (ConfigError, ProblemError):
            raise
        except ValueError as error:
            raise ConfigError(f"case {number}: {error}") from None
        named = [] if case.network == "mlp" else [case.network]
        chosen = case.weights if isinstance(case.weights, str) else sorted(case.weights.items())
        files = sorted(problem_hashes([case.problem], origin).values())  # two files may define classes of one name
        told = repr((base, shape, case.pretrain, chosen, *named, *files))  # all that a base is made from
        base_id = f"{_fitting(_slug(base))}-{shape}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        adapter = "-".join([f"r{case.rank}", *_scale_told(case).split()])
        case_id = _fitting(f"{number:02d}-{_slug(base)}-to-{_slug(target)}-{shape}-{adapter}")
        found.append(Case(case_id, base_id, case, base, target))
    return found


def _check_methods(methods: Sequence[MethodConfig]) -> None:
    """ConfigError for a preset that is to train all weights and trains factors, where the other way round `trains` may be the
    default of a config that was read and written back; and for one name of two methods. Not said by the config itself, as
    folders hold such ones from before."""
    parts = {method.name: method.preset() for method in methods}
    for method in methods:
        if method.preset() != parts[method.name]:
            raise ConfigError(f"the method {method.name} has other parts in other cases; give each a name of its own")
        if method.trains == "all weights" and method.preset().trains != method.trains:
            whole = [name for name, preset in PRESETS.items() if preset.trains == method.trains]
            told = f"leave `trains` out, or choose a preset that trains {method.trains} ({', '.join(whole)})"
            raise ConfigError(f"{method.name} trains factors; {told}")


def methods_of(config: StudyConfig, number: int) -> list[MethodConfig]:
    """The methods that the case of this number, from 1, is adapted by."""
    return [method for method in config.method if method.cases is None or number in method.cases]


def starts_of(method: MethodConfig) -> list[str | None]:
    """Where the method starts: the named starts, else its default one; None where all weights are trained."""
    preset = method.preset()
    return list(method.starts or [preset.initializer]) if preset.trains == "factors" else [None]


def step_sizes_of(method: MethodConfig) -> list[float]:
    """The step sizes that are tried: the named ones, else the method's default."""
    return method.step_sizes or [method.preset().step_size]


def _check_case(
    case: CaseConfig, base: Problem, target: Problem, methods: Sequence[MethodConfig], *, dtype: str
) -> None:
    """ValueError for what cannot be trained as it is asked for."""
    check_coordinates(base, target)
    check_weights({} if isinstance(case.weights, str) else case.weights, base, target)
    check_pretraining(case.pretrain)
    network = network_for(base, case.network, width=case.width, depth=case.depth)
    for method in methods:
        for start in starts_of(method):
            try:
                check_start(method.preset(), network, start=start, rank=case.rank, scale=case.scale)
            except (ValueError, ImportError) as error:
                told = f"{method.name} from {start}" if start else method.name
                raise ValueError(f"{told}: {error}") from None
    for problem in (base, target):
        rehearse(problem, network.to(getattr(torch, dtype)), weights_of(case, problem) or {})


def check_start(preset: Preset, network: nn.Module, *, start: str | None, rank: int, scale: Scale = 1.0) -> None:
    """Begins the method once on such a network from this start (None: its own) at this rank, and takes no step. ValueError
    where that cannot be, ImportError where it needs a package that is not there."""
    plain = merge(network)
    if preset.trains == "factors":
        initializer = build(initializers, Initializer, start or preset.initializer or "zero_b")
        probes = _random_probes(plain) if initializer.needs_probe else None
        factor = preset.method.rank_factor
        plain = adapt(plain, rank=rank, rank_factor=factor, initializer=initializer, scale=scale, probes=probes)
    blocks = Blocks(plain)
    with suppress(MemoryError):  # whether it fits is known when it runs, on the machine and at the time
        preset.method.start(blocks, blocks.read(plain), step_size=preset.step_size, max_steps=preset.max_steps)


def _random_probes(network: nn.Module) -> dict[str, Probe]:
    """In place of the loss's gradients: what a start by the gradient refuses, it refuses by the layers' shapes."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name in target_layers(network, "hidden"):
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        draw = torch.randn(2, 2, *layer.weight.shape, generator=generator, dtype=torch.float64)
        found[name] = Probe(draw[0, 0], draw[1])
    return found


def check_pretraining(pretrain: PretrainConfig) -> None:
    """ValueError for a method that does not pretrain."""
    if pretrain.method is not None:
        pretraining_phases(pretrain.options["method"], pretrain.max_steps)


def check_weights(weights: Mapping[str, float], *problems: Problem) -> None:
    """ValueError for the weight of what is a loss term of none of these problems."""
    known = list(dict.fromkeys(name for problem in problems for name, _, _ in problem.terms()))
    for name in weights:
        if name not in known:
            raise ValueError(f"there is no loss term {name!r} to weigh (terms: {', '.join(known)})")


def weights_of(case: CaseConfig, problem: Problem) -> dict[str, float] | None:
    """The case's weights of the terms that the problem has: base and target may have others. None where they
    are `pretrain`'s choice, and then the base's."""
    if isinstance(case.weights, str):
        return None
    names = [name for name, _, _ in problem.terms()]
    return {name: value for name, value in case.weights.items() if name in names}


def rehearse(problem: Problem, network: Network, weights: Mapping[str, float]) -> None:
    """Runs every term once, so that what cannot be run is said before anything is trained or written."""
    blocks = Blocks(network)
    objective = Objective(problem, network, blocks, first_points(problem, 64, seed=0), weights)
    objective.gradient(theta := blocks.read(network))
    first_loss(objective, theta)


def plan_jobs(config: StudyConfig, cases: list[Case]) -> list[Job]:
    """Every run of the study; for a case without a full scan, the first seed's, by which the step size is tuned. ConfigError
    for a run whose name no folder can have."""
    found = []
    for number, case in enumerate(cases, start=1):
        for method in methods_of(config, number):
            starts, step_sizes = starts_of(method), step_sizes_of(method)
            tuned = len(step_sizes) > 1 and not case.config.full_scan
            seeds = config.seeds[:1] if tuned else config.seeds
            found += [Job(case, method, start, h, seed) for start in starts for h in step_sizes for seed in seeds]
    for job in found:
        longest = len(replace(job, seed=max(config.seeds)).id)
        if longest > LONGEST:
            told = f"names folders of {longest} characters, and {LONGEST} is the most; give it a shorter name"
            raise ConfigError(f"the method {job.method.name} {told}")
    return found


def tuned_jobs(config: StudyConfig, jobs: list[Job], folder: Path) -> list[Job]:
    """For cases without a full scan: the other seeds at the step size whose first run ended with the lowest held-out loss."""
    found = []
    for group in _tuned_groups(jobs):
        best = min(group, key=lambda job: _final_loss(folder / "runs" / job.id))
        found += [Job(best.case, best.method, best.start, best.step_size, seed) for seed in config.seeds[1:]]
    return found


def count_tuned(config: StudyConfig, jobs: list[Job]) -> int:
    """How many jobs `tuned_jobs` will name, once the step sizes are tuned."""
    return len(_tuned_groups(jobs)) * (len(config.seeds) - 1)


def _tuned_groups(jobs: list[Job]) -> list[list[Job]]:
    groups: dict[tuple[str, str, str | None], list[Job]] = {}
    for job in jobs:
        if not job.case.config.full_scan:
            groups.setdefault((job.case.id, job.method.name, job.start), []).append(job)
    return [group for group in groups.values() if len({job.step_size for job in group}) > 1]


def _final_loss(folder: Path) -> float:
    run = read_run(folder)
    if run is None or run["status"] in ("DIVERGED", "REFUSED") or run["held_out_loss"] is None:
        return math.inf
    return run["held_out_loss"]
