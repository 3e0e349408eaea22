"""Training: `pretrain` solves one problem from scratch, `finetune` adapts a solution to another member of its family."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pinn_lora import initializers
from pinn_lora.adapters import fingerprint
from pinn_lora.catalog import build, choose
from pinn_lora.devices import check_device
from pinn_lora.initializers import Initializer
from pinn_lora.loop import Budget, train
from pinn_lora.lora import Blocks, LoRALinear, adapt, merge
from pinn_lora.networks import Network, build_network
from pinn_lora.objective import probe
from pinn_lora.optimizers import Optimizer
from pinn_lora.places import sentence
from pinn_lora.points import first_points
from pinn_lora.presets import PRESETS, Preset, find_preset, preset_of
from pinn_lora.problem import Problem
from pinn_lora.ranges import POSITIVE, must_be
from pinn_lora.rslora import RSLoRA, Scale, scale_of
from pinn_lora.scalars import checked_seed, integer_ranks, integers, reals, switches, term_weights
from pinn_lora.solution import Solution, Status
from pinn_lora.trace_weights import trace_weights

PROBE = 512  # points of the batch that a start by the gradient sees
DTYPES = {"float32": torch.float32, "float64": torch.float64}
OVERFIT = 1.5  # "auto" adds points while the held-out loss is above so many times the fitted one
DIRECT_LIMIT = 60_000  # unknowns up to which pretraining takes Gauss-Newton steps by default


def pretrain(
    problem: Problem,
    *,
    method: str | Preset | Optimizer | None = None,
    network: nn.Module | str | Mapping[str, Any] | None = "mlp",
    width: int = 24,
    depth: int = 3,
    step_size: float | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    points: int = 3000,
    resample_every: int | str | None = "auto",
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    compile: bool = False,
    max_memory: float | None = None,
    progress: bool = False,
) -> Solution:
    """Trains all weights of a network on `problem`.

    method: "full-lm" (damped Gauss-Newton, the default up to 60,000 unknowns), "adam-lbfgs" (Adam with decay, then L-BFGS;
    the default above), or another preset of all weights by name; or a preset, a `Method` or an optimizer, which then trains all
    weights.
    network: a module, which is copied, or one of ours that is made `depth` x `width`: its name ("mlp" where None), or a mapping
    of its name and options, {"name": "mlp", "activation": "sin", "fourier": 16}.
    max_steps, where not given, is the method's. Every `resample_every` steps (None: never) residual-adaptive points are added,
    up to three times the first number. "auto" is 10 where steps are implicit, else a fifteenth of the run, and only while the
    held-out loss is above 1.5 times the fitted one: a smooth solution needs no more, and steps on fewer points are quicker.
    weights: by term name, see `Objective`, 1 for what is not named ({}: for all). Where not given every condition has one of
    its own, so that none is left behind, see `trace_weights`; the solution's settings have them. compile: fused kernels with
    the same numbers; needs a C++ compiler and some seconds for every new shape, so it pays for long runs. max_memory: GiB that
    an implicit step may take, see `Objective`: the solver and the points taken together are chosen for it.
    Raises ValueError for names that do not exist, a given network that does not map points (n, d) to (n, fields) or is not
    periodic where the problem counts on it, and a loss that is not finite at the start.
    """
    check_given(problem)
    switches(compile=compile, progress=progress)
    points, width, depth = integers(points=points, width=width, depth=depth)
    seed = checked_seed(seed)
    [max_steps] = integers(max_steps=max_steps)
    spacing = _spacing(resample_every)
    step_size, max_seconds, max_memory = reals(step_size=step_size, max_seconds=max_seconds, max_memory=max_memory)
    must_be(POSITIVE, max_seconds=max_seconds)
    if isinstance(network, nn.Module):
        _check_fits(problem, network)
        network = copy.deepcopy(network)
    else:
        network = network_for(problem, "mlp" if network is None else network, width=width, depth=depth, seed=seed)
    network = _place(network, torch.float64 if dtype is None else dtype, device)
    _check_periodic(problem, network)
    weights = trace_weights(problem, network, seed=seed) if weights is None else term_weights(weights)
    blocks = Blocks(network)
    name = method or ("full-lm" if blocks.size <= DIRECT_LIMIT else "adam-lbfgs")
    phases = pretraining_phases(name, max_steps)
    told = str(name.method if isinstance(name, Preset) else name)
    settings = {"method": told, "seed": seed, "points": points, "weights": weights}
    solution = Solution(problem, network, None, (), Status.COMPLETED, settings)
    for phase, (preset, steps) in enumerate(phases):
        before = solution
        left = None if max_seconds is None else max(max_seconds - (before.history[-1].seconds if phase else 0.0), 0.0)
        share = left if left is None or phase == len(phases) - 1 else left * 0.5
        budget = _budget(preset, steps, share, spacing)
        solution = train(
            replace(before, history=()),
            preset.method,
            step_size=preset.step_size if step_size is None else step_size,
            budget=budget,
            points=points,
            weights=weights,
            seed=seed,
            compile=compile,
            max_memory=max_memory,
            progress=progress,
        )
        solution = continued(before, solution)
        if solution.status is Status.DIVERGED:
            break
    return solution


def _spacing(resample_every: int | str | None) -> int | str | None:
    """The number of steps between two additions of points; ValueError for what is none."""
    return "auto" if resample_every == "auto" else integers(resample_every=resample_every)[0]


def _budget(preset: Preset, max_steps: int, max_seconds: float | None, spacing: int | str | None) -> Budget:
    """A given number of steps is kept to, so that all methods of a comparison have one schedule."""
    if not isinstance(spacing, str):
        return Budget(max_steps, max_seconds, spacing)
    every = 10 if preset.method.implicit else max(max_steps // 15, 1)
    return Budget(max_steps, max_seconds, every, overfit=OVERFIT)


def check_given(problem: Any, **solutions: Any) -> None:
    """ValueError for a problem that is none or cannot be used, and for a solution that is none."""
    for name, given in solutions.items():
        if not isinstance(given, Solution):
            raise ValueError(f"{name} is of type {type(given).__name__}; give a Solution, as pretrain returns it")
    if isinstance(problem, type) and issubclass(problem, Problem):
        raise ValueError(f"problem is the class {problem.__name__}; give one of it, {problem.__name__}()")
    if not isinstance(problem, Problem):
        example = "Burgers() from pinn_lora.problems.burgers"
        raise ValueError(f"problem is {problem!r:.60}; give a Problem, such as {example}")
    problem.terms()  # a problem that cannot be used says so here


def check_coordinates(base: Problem, problem: Problem) -> None:
    """ValueError where a network of `base` is none for `problem`: it has other fields or other coordinates."""
    for name, theirs, ours in (
        ("fields", base.fields, problem.fields),
        ("coordinates", base.domain.names, problem.domain.names),
    ):
        if tuple(theirs) != tuple(ours):
            raise ValueError(f"the base has the {name} {', '.join(theirs)}, and {problem!r} has {', '.join(ours)}")


def network_for(
    problem: Problem, spec: str | Mapping[str, Any] = "mlp", *, width: int = 24, depth: int = 3, seed: int = 0
) -> Network:
    """One of our networks with the problem's fields and period, see `pretrain`."""
    shape = {"fields": len(problem.fields), "width": width, "depth": depth, "periodic": problem.periodic, "seed": seed}
    return build_network(spec, problem.domain, **shape)


def _check_fits(problem: Problem, network: nn.Module) -> None:
    """ValueError for a network without weights, and for one that does not map points (n, d) to outputs (n, fields)."""
    like, domain = next((v for v in network.state_dict().values() if v.is_floating_point()), None), problem.domain
    name, coordinates = type(network).__name__, ", ".join(domain.names)
    if like is None:
        raise ValueError(f"the network, a {name}, has no weights to train; give one that has, or leave network= out")
    points = domain.sample(2).to(like)
    copied = copy.deepcopy(network).eval()  # what it counts or averages stays as it is
    try:
        with torch.no_grad():
            found = copied(points)
    except Exception as error:  # the user's own code
        said = f"cannot be run at points (n, {domain.dimension}), one column for each of {coordinates}"
        raise ValueError(f"the network, a {name}, {said}: {sentence(error)}") from error
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    expected = (2, len(problem.fields))
    if shape != expected:
        fields = ", ".join(problem.fields)
        raise ValueError(
            f"the network, a {name}, gives {shape} at 2 points; the fields are {fields}: it must be {expected}"
        )


def _check_periodic(problem: Problem, network: nn.Module) -> None:
    like = next(iter(network.state_dict().values()))
    for name in problem.periodic:
        ends = [problem.domain.sample_face(8, coordinate=name, side=side).to(like) for side in ("lower", "upper")]
        with torch.no_grad():
            left, right = (network(points) for points in ends)
        if not torch.allclose(left, right, rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"{problem!r} counts on a network that is periodic in {name}, and this one is not; "
                f"give it cos and sin of {name}, or leave network= out"
            )


def pretraining_phases(name: Any, max_steps: int | None) -> list[tuple[Preset, int]]:
    """What `pretrain` does for a method, one after another, each with its steps; ValueError for a name that is none."""
    if isinstance(name, (Preset, Optimizer)):
        preset = replace(preset_of(name), trains="all weights", initializer=None)
        return [(preset, preset.max_steps if max_steps is None else max_steps)]
    if name == "adam-lbfgs":
        adam, lbfgs = find_preset("full-adam"), find_preset("full-lbfgs")
        steps = 15_000 if max_steps is None else max_steps
        return [(adam, max(steps // 3, 1)), (lbfgs, max(steps - steps // 3, 1))]
    names = ["adam-lbfgs", *(known for known, preset in PRESETS.items() if preset.trains == "all weights")]
    preset = find_preset(choose(name, names, what="pretraining method"))
    default = 250 if name == "full-lm" else preset.max_steps
    return [(preset, default if max_steps is None else max_steps)]


def continued(earlier: Solution, later: Solution) -> Solution:
    """The later phase with the earlier one's history before its own, and the work of both."""
    if not earlier.history:
        return later
    last, history = earlier.history[-1], list(earlier.history)
    for r in later.history[1:]:
        history.append(replace(r, step=r.step + last.step, work=r.work + last.work, seconds=r.seconds + last.seconds))
    work = {kind: count + later.settings["work"][kind] for kind, count in earlier.settings["work"].items()}
    sums = {key: earlier.settings[key] + later.settings[key] for key in ("seconds", "accepted", "compile_seconds")}
    return replace(later, history=tuple(history), settings={**later.settings, **sums, "work": work})


def finetune(
    base: Solution,
    problem: Problem,
    *,
    start: Solution | None = None,
    method: str | Preset | Optimizer = "odelora-implicit",
    rank: int | Mapping[str, int] | None = None,
    initializer: str | Initializer | None = None,
    targets: str | Sequence[str] | None = None,
    train_biases: bool = False,
    train_output: bool = False,
    scale: Scale | None = None,
    step_size: float | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    points: int = 3000,
    resample_every: int | str | None = "auto",
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    compile: bool = False,
    max_memory: float | None = None,
    progress: bool = False,
) -> Solution:
    """Adapts `base` to `problem` by factors of the given rank, or by all weights where the method is a "full-" one, for which
    the rank says nothing and the other options of factors are refused.

    start: a solution adapted from the same base; a copy of its factors is where this one begins, and rank, targets, scale,
    initializer and what else is trained are as they are there. rank: one for all target layers (4), or by layer name, see
    `select_ranks`; these layers then are the targets. targets: "hidden" where not given. scale: s of W0 + s B A (1.0), or
    "rslora", {"name": "rslora", "alpha": 2.0}: alpha / sqrt(rank), see `RSLoRA`. method: a preset or its name, or a
    `Method(metric, lift, integrator)` or an optimizer, which then trains factors. The initializer, the first step size and the
    budget are the preset's where not given.
    weights: as in `pretrain`; the base's where not given. resample_every, compile, max_memory: as there. The base is left as
    it is. Raises ValueError for names that do not exist, a rank above a layer's size, a start that does not fit, factors from
    which the method's lift cannot begin (see `check_start` of `pinn_lora.lifts`) and a loss that is not finite at the start,
    MemoryError for an implicit step that does not fit.
    """
    check_given(problem, base=base, **({} if start is None else {"start": start}))
    check_coordinates(base.problem, problem)
    switches(compile=compile, progress=progress, train_biases=train_biases, train_output=train_output)
    points, max_steps = integers(points=points, max_steps=max_steps)
    seed = checked_seed(seed)
    spacing, rank = _spacing(resample_every), integer_ranks(rank)
    step_size, max_seconds, max_memory = reals(step_size=step_size, max_seconds=max_seconds, max_memory=max_memory)
    must_be(POSITIVE, max_seconds=max_seconds)
    weights = base.weights_for(problem) if weights is None else term_weights(weights)
    scale = None if scale is None else scale_of(scale)
    preset = preset_of(method)
    shape: dict[str, Any] = {"rank": rank, "initializer": initializer, "targets": targets, "scale": scale}
    shape |= {"train_biases": train_biases, "train_output": train_output}
    if start is not None:
        network, made = _copied(base, problem, start, preset, shape)
    elif preset.trains == "all weights":
        others = {name: value for name, value in shape.items() if name != "rank"}  # one loop may compare all methods
        _left_out(others, "the method trains all weights and has no factors")
        network, made = merge(base.network), {"rank": None, "initializer": None}
    else:
        plain = _place(merge(base.network), dtype, device)
        network, made = _adapted(plain, problem, preset, **shape, weights=weights, seed=seed)
    network = _place(network, dtype, device)
    _check_periodic(problem, network)
    told = {"seed": seed, "points": points, "weights": weights}
    settings = {"method": method if isinstance(method, str) else repr(preset.method), **made, **told}
    return train(
        Solution(problem, network, base, (), Status.COMPLETED, settings),
        preset.method,
        step_size=preset.step_size if step_size is None else step_size,
        budget=_budget(preset, preset.max_steps if max_steps is None else max_steps, max_seconds, spacing),
        points=points,
        weights=weights,
        seed=seed,
        compile=compile,
        max_memory=max_memory,
        progress=progress,
    )


def _adapted(
    plain: nn.Module,
    problem: Problem,
    preset: Preset,
    *,
    rank: int | Mapping[str, int] | None,
    initializer: str | Initializer | None,
    targets: str | Sequence[str] | None,
    scale: float | RSLoRA | None,
    train_biases: bool,
    train_output: bool,
    weights: Mapping[str, float] | None,
    seed: int,
) -> tuple[nn.Module, dict[str, Any]]:
    """The plain network with new factors, and what the settings say of them."""
    rank = 4 if rank is None else rank
    chosen = initializer or preset.initializer or "zero_b"
    start = build(initializers, Initializer, chosen)
    probes = None
    if start.needs_probe:
        seen = list(rank) if isinstance(rank, Mapping) else targets
        probes = probe(problem, plain, first_points(problem, PROBE, seed=seed), targets=seen, weights=weights)
    network = adapt(
        plain,
        rank=rank,
        targets=targets,
        initializer=start,
        scale=1.0 if scale is None else scale,
        train_biases=train_biases,
        train_output=train_output,
        probes=probes,
        rank_factor=preset.method.rank_factor,
        seed=seed,
    )
    return network, {"rank": rank if isinstance(rank, int) else dict(rank), "initializer": str(chosen)}


def _left_out(given: Mapping[str, Any], why: str) -> None:
    """ValueError for an option of factors that would do nothing."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise ValueError(f"{name}={value!r} is given, but {why}; leave {name} out")


def _copied(
    base: Solution, problem: Problem, start: Solution, preset: Preset, given: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of the network of `start`, and what the settings say of it; ValueError where it cannot be begun from."""
    _left_out(given, "start= brings an adapter with its own")
    if preset.trains == "all weights":
        raise ValueError("the method trains all weights, and start= brings factors; choose a method on factors")
    if preset.method.rank_factor != 1:
        raise ValueError(
            f"the method makes its own factors, of {preset.method.rank_factor} times the rank, so it cannot begin from start="
        )
    layers = {name: module for name, module in start.network.named_modules() if isinstance(module, LoRALinear)}
    if start.base is None or not layers:
        raise ValueError(f"start={start.problem!r} has no factors: it was pretrained, or adapted with all weights")
    if start.base is not base and fingerprint(start.base.network) != fingerprint(base.network):
        raise ValueError(f"start={start.problem!r} was adapted from another base; adapt it from this one")
    ranks = {name: layer.rank for name, layer in layers.items()}
    rank = next(iter(ranks.values())) if len(set(ranks.values())) == 1 else ranks
    made = {"rank": rank, "initializer": start.settings.get("initializer"), "start": repr(start.problem)}
    return copy.deepcopy(start.network), made


def _place(network: nn.Module, dtype: str | torch.dtype | None, device: str | torch.device | None) -> nn.Module:
    if isinstance(dtype, str):
        dtype = DTYPES[choose(dtype, list(DTYPES), what="dtype")]
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; it must be float32 or float64, by name or torch's")
    if device is not None:
        check_device(device, dtype or next((p.dtype for p in network.parameters()), None))
    return network.to(device=device, dtype=dtype)
