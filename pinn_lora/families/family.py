"""A family of PDEs: every member reached from its nearest solved neighbour, and one adapter kept for each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from pinn_lora.adapters import fingerprint
from pinn_lora.families.neighbours import Distance, checked, coefficient_distance, member_at, spanning_tree, varying
from pinn_lora.families.record import FLOATS, MEMBERS, RECORD, family_record, open_folder, read_record
from pinn_lora.folders import in_use, plain_path, whole, write_atomically
from pinn_lora.initializers import Initializer
from pinn_lora.lora import Blocks, LoRALinear
from pinn_lora.optimizers import Optimizer
from pinn_lora.points import layer_points
from pinn_lora.presets import Preset, preset_of
from pinn_lora.problem import Problem
from pinn_lora.ranges import COUNT, POSITIVE, must_be
from pinn_lora.scalars import integer_ranks, integers, json_text, reals, term_weights
from pinn_lora.solution import Solution, Status, stated_error
from pinn_lora.training import finetune
from pinn_lora.workers import in_tree, torch_threads


@dataclass(frozen=True)
class Family:
    """The solved members of a family, in the order given; each is a `Solution` with the family's base.

    parents: for each member the place of the member that it started from, None where it started from the base. distance: what
    tells near from far, `coefficient_distance` where None.
    """

    base: Solution
    members: tuple[Solution, ...]
    parents: tuple[int | None, ...]
    distance: Distance | None = field(default=None, repr=False)

    @property
    def problems(self) -> list[Problem]:
        """The base's problem and the members'."""
        return [self.base.problem, *(member.problem for member in self.members)]

    @property
    def coefficients(self) -> list[str]:
        """The names of the coefficients that vary."""
        return list(varying(self.problems))

    def table(self) -> list[dict[str, Any]]:
        """One row a member: its coefficients, what it started from, points at first, errors and residual norms (root mean
        square on held-out points) of the unchanged base and of the member, what the reference states of its own error, status,
        seconds, and the adapter's bytes on disk. An error is None where there is no reference."""
        return [self._row(number) for number in range(len(self.members))]

    def _row(self, number: int) -> dict[str, Any]:
        member, parent = self.members[number], self.parents[number]
        zero_shot = member.zero_shot()
        return {
            **self._values(member.problem),
            "started_from": "base" if parent is None else _told(self._values(self.members[parent].problem)),
            "points": member.settings["points"],
            "zero_shot": error_of(zero_shot),
            "relative_l2": error_of(member),
            "reference_error": stated_error(member.problem),
            "zero_shot_residual": zero_shot.residual_norms()["residual"],
            "residual": member.residual_norms()["residual"],
            "status": str(member.status),
            "seconds": member.settings["seconds"],
            "bytes": _bytes(member),
        }

    def _values(self, problem: Problem) -> dict[str, Any]:
        return {name: getattr(problem, name) for name in self.coefficients}

    def write_csv(self, path: str | Path) -> Path:
        """Writes `table`."""
        from pinn_lora.report import write_csv

        write_csv(Path(path), self.table())
        return Path(path)

    def plot(self, path: str | Path) -> Path:
        """Draws the errors of the members and of the unchanged base against the parameter, on logarithmic axes where it is
        positive; in colour over two. ValueError where more than two coefficients vary."""
        from pinn_lora.families.figures import plot_family

        plot_family(self.table(), self.coefficients, base=self.base_row()).savefig(path, dpi=150)
        return Path(path)

    def base_row(self) -> dict[str, Any]:
        """The base's coefficients, error and residual norm on its own problem."""
        errors = {"relative_l2": error_of(self.base), "reference_error": stated_error(self.base.problem)}
        return {**self._values(self.base.problem), **errors, "residual": self.base.residual_norms()["residual"]}

    def nearest(self, value: Any) -> Solution:
        """The base or the member nearest to a problem, a mapping of coefficients, or the value of the only one that varies;
        never a member that diverged. Ties go to the base."""
        return self._nearest(value, [self.base, *self._sound_members()])

    def _sound_members(self) -> list[Solution]:
        return [member for member in self.members if member.status is not Status.DIVERGED]

    def _nearest(self, value: Any, among: Sequence[Solution]) -> Solution:
        """What was solved for the very problem comes first, whatever the distance says."""
        problem = member_at(value, self.problems)
        distance = checked(self.distance or coefficient_distance([*self.problems, problem]))
        return min(among, key=lambda one: (one.problem != problem, distance(problem, one.problem)))

    def solve(self, value: Any, *, method: str | Optimizer = "odelora-implicit", max_steps: int = 20) -> Solution:
        """The solution for an unseen parameter (as in `nearest`) by a few steps from the nearest that is solved: a member, or
        the base by fresh factors of the members' rank. Points, weights and seed are the nearest member's. The base's own
        problem and a member's have their solution already. The family is left as it is."""
        problem = member_at(value, self.problems)
        near = self.nearest(problem)
        if near.problem == problem:
            return near
        like = self._nearest(problem, self._sound_members() or self.members)
        told = {key: like.settings[key] for key in ("points", "weights", "seed")}
        told |= _shape(like) if near is self.base else {"start": near}
        return finetune(self.base, problem, method=method, max_steps=max_steps, **told)

    def predict(self, value: Any, points: Any, *, max_steps: int = 20) -> Any:
        """The fields (n, fields) of `solve(value)` at points (n, d): numpy gives numpy float64, a tensor stays a tensor."""
        return self.solve(value, max_steps=max_steps).predict(points)

    def save(self, folder: str | Path) -> Path:
        """Writes family.json and one adapter folder a member, never over a full folder."""
        folder = plain_path(folder)
        points = [member.settings["points"] for member in self.members]
        record = family_record(self.base, [m.problem for m in self.members], list(self.parents), points, {})
        if in_use(folder):
            raise FileExistsError(f"{folder} exists and is not empty; nothing was written: choose another folder")
        with whole(folder) as place:
            for entry, member in zip(record["members"], self.members, strict=True):
                member.save(place / MEMBERS / entry["folder"])
            write_atomically(place / RECORD, json_text(record, indent=1))
        return folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        base: Solution,
        problems: Sequence[Problem] | None = None,
        distance: Distance | None = None,
    ) -> Family:
        """A saved family. `problems`, in its order, is needed for problems of your own that cannot be imported. ValueError
        for a folder that holds none, one of another base, or one with members missing."""
        folder = Path(folder)
        record = read_record(folder)
        if record["base"] != fingerprint(base.network):
            raise ValueError(f"{folder} was made from another base: its fingerprint is {record['base'][:12]}")
        entries = record["members"]
        if problems is not None and len(problems) != len(entries):
            raise ValueError(f"{folder} holds {len(entries)} members, and {len(problems)} problems are given")
        missing = [entry["folder"] for entry in entries if not (folder / MEMBERS / entry["folder"]).is_dir()]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(entries)} members, the first is {missing[0]}; solve_family with this "
                "folder makes them"
            )
        members = tuple(
            Solution.load(folder / MEMBERS / entry["folder"], base=base, problem=problems[i] if problems else None)
            for i, entry in enumerate(entries)
        )
        held = dict(enumerate(members))
        planned = [entry["parent"] for entry in entries]
        return cls(base, members, tuple(_sound(parent, planned, held) for parent in planned), distance)


def solve_family(
    base: Solution,
    members: Sequence[Problem],
    *,
    method: str | Optimizer = "odelora-implicit",
    rank: int | Mapping[str, int] = 4,
    jobs: int = 1,
    threads: int = 1,
    points: int | Callable[[Problem], int] | None = None,
    distance: Distance | None = None,
    folder: str | Path | None = None,
    initializer: str | Initializer | None = None,
    train_biases: bool = False,
    train_output: bool = False,
    step_size: float | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    compile: bool = False,
    progress: bool = False,
) -> Family:
    """Adapts `base` to every member, each from its nearest solved neighbour.

    The order is planned first, whatever `jobs` is: a minimum spanning tree grown from the base, in `distance` (that of
    `coefficient_distance` where not given). A member starts when its parent is done, from a copy of its factors; children of
    the base start from fresh ones. Branches run at once in `jobs` processes of `threads` threads. A member that diverged is
    kept and is never a start: its children start from the nearest sound ancestor. points: a number for all members, or a rule
    problem -> number; where not given `layer_points` from 3,000. folder: each member is written when it is done, and a
    second call continues with the missing ones. The rest is as in `finetune`. Raises ValueError for members of several
    classes, a member that stands twice, a method that keeps no adapter, and a folder that holds anything else.
    """
    members, rank = _problems(base, members), integer_ranks(rank)
    weights = None if weights is None else term_weights(weights)
    jobs, threads, max_steps, seed = integers(jobs=jobs, threads=threads, max_steps=max_steps, seed=seed)
    step_size, max_seconds = reals(step_size=step_size, max_seconds=max_seconds)
    check_members(base.problem, members, method)
    _check_start(base, members, preset_of(method), initializer, rank, weights)
    must_be(COUNT, jobs=jobs, threads=threads, max_steps=max_steps)
    must_be(POSITIVE, step_size=step_size, max_seconds=max_seconds)
    tree = spanning_tree(base.problem, members, distance or coefficient_distance([base.problem, *members]))
    parents = [parent for _, parent in sorted(tree)]
    counts = [_count(points, base.problem, member) for member in members]
    fresh = {"rank": rank, "initializer": initializer, "train_biases": train_biases, "train_output": train_output}
    shared = {
        "step_size": step_size,
        "max_steps": max_steps,
        "max_seconds": max_seconds,
        "seed": seed,
        "compile": compile,
    }
    options = {"method": method, "weights": weights, **shared}
    done: dict[int, Solution] = {}
    record = None
    if folder is not None:
        folder = plain_path(folder)
        record = family_record(base, members, parents, counts, {**options, **fresh})
        done = open_folder(folder, record, base, members)

    def arguments(i: int) -> tuple:
        parent = _sound(parents[i], parents, done)
        start = None if parent is None else done[parent]
        train = partial(finetune, base, members[i], start=start, points=counts[i], **options)
        return threads, train if start else partial(train, **fresh)

    waiting = [(i, parent if parent not in done else None) for i, parent in tree if i not in done]
    with tqdm(total=len(members), initial=len(done), desc="members", disable=not progress, dynamic_ncols=True) as bar:
        for i, solution in in_tree(_solve, waiting, arguments, jobs=jobs):
            done[i] = _kept(solution, base, members[i], folder, record["members"][i]["folder"] if record else "")
            bar.set_postfix_str(f"{members[i]!r}: {solution.status}")
            bar.update()
    found = tuple(done[i] for i in range(len(members)))
    return Family(base, found, tuple(_sound(parent, parents, done) for parent in parents), distance)


def _solve(threads: int, train: Callable[[], Solution]) -> Solution:
    """Runs in a worker: what comes back leaves the base there."""
    with torch_threads(threads):
        return replace(train(), base=None)


def _kept(solution: Solution, base: Solution, problem: Problem, folder: str | Path | None, name: str) -> Solution:
    """The member with its base again, written where there is a folder."""
    member = replace(solution, base=base, problem=problem)
    if folder is not None:
        with whole(Path(folder) / MEMBERS / name) as place:
            member.save(place)
    return member


def _sound(parent: int | None, parents: Sequence[int | None], done: Mapping[int, Solution]) -> int | None:
    """The nearest ancestor that did not diverge, from the parent on; None is the base."""
    while parent is not None and done[parent].status is Status.DIVERGED:
        parent = parents[parent]
    return parent


def _problems(base: Solution, members: Sequence[Problem]) -> list[Problem]:
    """The members as a list; ValueError for a base or members that are something else."""
    if not isinstance(base, Solution):
        raise ValueError(f"base is {base!r}; give a Solution, as pretrain returns it")
    if not isinstance(members, Iterable):
        raise ValueError(f"members is {members!r}; give a list of problems")
    members = list(members)
    for member in members:
        if not isinstance(member, Problem):
            raise ValueError(
                f"{member!r} stands among the members and is no Problem; give problems of the base's class"
            )
    return members


def check_members(base: Problem, members: Sequence[Problem], method: str | Optimizer) -> None:
    """ValueError for what `solve_family` cannot solve."""
    if not members:
        raise ValueError("solve_family was given no members; give the problems of the family")
    varying([base, *members])  # of one class, and dataclasses
    for i, member in enumerate(members):
        if member in members[:i]:
            raise ValueError(f"{member!r} stands twice among the members; give each once")
    preset = preset_of(method)
    if preset.trains == "all weights":
        raise ValueError(
            f"solve_family keeps one adapter a member, and {method} trains all weights; choose one on factors"
        )
    if preset.method.rank_factor != 1:
        raise ValueError(
            f"{method} makes its own factors, so no member can start from another's; choose another method"
        )


def _check_start(
    base: Solution,
    members: Sequence[Problem],
    preset: Preset,
    initializer: Any,
    rank: Any,
    weights: Mapping[str, float] | None,
) -> None:
    """ValueError for fresh factors that the base's layers do not take, and for the weight of a term that is none: before a
    folder is made."""
    from pinn_lora.plan import check_start, check_weights  # they bring what reads configs, which few calls need

    check_start(preset, base.network, start=initializer, rank=4 if rank is None else rank)
    check_weights(weights or {}, *members)


def _count(points: int | Callable[[Problem], int] | None, base: Problem, member: Problem) -> int:
    found = layer_points(base, member) if points is None else points(member) if callable(points) else points
    [count] = integers(points=found)
    if count is None or count < 1:
        raise ValueError(f"{count!r} points are to be taken for {member!r}; give a whole number of at least 1")
    return count


def error_of(solution: Solution) -> float | None:
    """The relative error; None where there is no reference, or it cannot be computed there."""
    try:
        return solution.relative_l2()
    except ValueError:
        return None


def _shape(member: Solution) -> dict[str, Any]:
    """The rank of a member's factors, and what is trained beside them, as `finetune` takes them."""
    linear = [name for name, module in member.network.named_modules() if isinstance(module, (nn.Linear, LoRALinear))]
    trained = {key for block in Blocks(member.network).blocks for key in block.keys}
    output = f"{linear[-1]}.weight" in trained
    inner = linear[:-1] if output else linear
    biases = any(f"{name}.bias" in trained for name in inner)
    return {"rank": member.settings["rank"], "train_biases": biases, "train_output": output}


def _bytes(member: Solution) -> int:
    with tempfile.TemporaryDirectory() as place:
        folder = member.save(Path(place) / "adapter")
        return sum(path.stat().st_size for path in folder.iterdir())


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, FLOATS) else f"{name}={value}" for name, value in values.items()
    )
