"""DeepXDE and this package side by side: Burgers at another viscosity, the time to an error and the error at the end.

    python benchmarks/against_deepxde.py [--threads 1] [--quick] [--out results/benchmarks/against_deepxde.json]

The base is trained at nu = 0.01/pi; the members are 0.02/pi, a near one (0.012/pi) and a far one (0.1/pi), in float64, then in
float32. Five ways, one after another in this process: DeepXDE's published recipe from scratch; DeepXDE with our input features,
ansatz, network and points, by Adam, L-BFGS and NNCG, from scratch and, without Adam, from the base's weights; ours from
scratch; ours adapted from the base at rank 4. Errors are taken on one grid for all. Seconds are those of training, by CPU time
on one thread: the clock stands while an error is recorded. What is finished stays in the file: call again to go on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde
import numpy as np
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora.about import machine, versions
from pinn_lora.clock import seconds
from pinn_lora.folders import whole, write_atomically
from pinn_lora.points import first_points
from pinn_lora.solution import grid_points, grid_reference, relative_error

dde: Any = deepxde  # its modules are not known to a type checker
BASE, MEMBERS = 0.01, {"0.02/pi": 0.02, "0.012/pi, near": 0.012, "0.1/pi, far": 0.1}  # times 1/pi
GOALS = (1e-3, 1e-4)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Lengths:
    """How long everything runs: full length, or a few steps that show that it runs."""

    published_adam: int = 15_000
    published_lbfgs: int = 15_000
    adam: int = 5_000
    rounds: int = 8  # of L-BFGS, with a quarter more points before each but the first
    lbfgs: int = 500  # iterations a round
    nncg: int = 1_000  # steps, as in DeepXDE's example, or as many as fit in:
    nncg_seconds: float = 150.0
    conjugate: int = 100  # products with the Hessian in each, at most; DeepXDE's 1,000 would take a minute and more
    points: int = 3_000
    every: int = 100  # iterations between two records
    pretrain: int | None = None
    finetune: int | None = None


QUICK = Lengths(12, 12, 12, 2, 6, nncg=1, conjugate=2, points=200, every=12, pretrain=5, finetune=3)


class Timed(dde.Model):  # type: ignore[misc]
    """A DeepXDE model that records (training seconds, relative L2 error) where DeepXDE would test, with the clock standing."""

    def __init__(self, data: Any, net: Any, problem: Burgers) -> None:
        super().__init__(data, net)
        self.problem, self.trace = problem, []
        self.spent, self.since, self.until, self.last = 0.0, 0.0, math.inf, -1

    @contextmanager
    def clock(self) -> Iterator[None]:
        self.since = seconds(CPU)
        try:
            yield
        finally:
            self.spent += seconds(CPU) - self.since

    def _test(self, verbose: int = 1) -> None:
        self.spent += seconds(CPU) - self.since
        found = self.predict(grid_points(self.problem).numpy().astype(dde.config.real(np)))
        self.trace.append((self.spent, relative_error(found.astype(np.float64), grid_reference(self.problem))))
        step = self.train_state.iteration  # L-BFGS that cannot move goes round for ever
        self.stop_training = self.spent >= self.until or step == self.last
        self.last, self.since = step, seconds(CPU)

    def phase(self, optimizer: str, iterations: int, every: int, most: float = math.inf, **options: Any) -> None:
        """So many iterations of an optimizer, or as many as fit in `most` seconds."""
        every = min(every, iterations)
        lbfgs = {"maxiter": iterations, "iter_per_step": every, "fun_per_step": every * 5 // 4}
        self.until, self.last = self.spent + most, -1
        with patch.dict(dde.optimizers.LBFGS_options, lbfgs):
            # on no clock: the first one of a process loads parts of torch
            self.compile(optimizer, verbose=0, **options)
            with self.clock():
                self.train(iterations=iterations, display_every=every, verbose=0)


def equation(nu: float) -> Callable[[Any, Any], Any]:
    def pde(x: Any, y: Any) -> Any:
        dy_x = dde.grad.jacobian(y, x, i=0, j=0)
        dy_t = dde.grad.jacobian(y, x, i=0, j=1)
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        return dy_t + y * dy_x - nu * dy_xx

    return pde


def in_time() -> Any:
    return dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))


def published(problem: Burgers, lengths: Lengths) -> Timed:
    """DeepXDE's example Burgers.py, but up to t = 1 instead of 0.99, as the other ways."""
    where = in_time()
    bc = dde.icbc.DirichletBC(where, lambda x: 0, lambda _, on_boundary: on_boundary)
    ic = dde.icbc.IC(where, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on_initial: on_initial)
    sizes = {"num_domain": 2540, "num_boundary": 80, "num_initial": 160}
    data = dde.data.TimePDE(where, equation(problem.nu), [bc, ic], **sizes)
    model = Timed(data, dde.nn.FNN([2] + [20] * 3 + [1], "tanh", "Glorot normal"), problem)
    model.phase("adam", lengths.published_adam, lengths.every, lr=1e-3)
    model.phase("L-BFGS", lengths.published_lbfgs, lengths.every)
    return model


def like_ours(problem: Burgers, points: int, base: pl.Solution | None = None) -> Timed:
    """Our features, network, ansatz and first points in DeepXDE; the base's weights where it is given."""

    def features(x: torch.Tensor) -> torch.Tensor:
        angle = math.pi * (x[:, 0:1] + 1.0)
        return torch.cat([torch.cos(angle), torch.sin(angle), 2.0 * x[:, 1:2] - 1.0], dim=1)

    net = dde.nn.FNN([3] + [24] * 3 + [1], "tanh", "Glorot normal")
    net.apply_feature_transform(features)
    net.apply_output_transform(lambda x, y: -torch.sin(math.pi * x[:, 0:1]) + x[:, 1:2] * y)
    if base is not None:
        for mine, theirs in zip(net.linears, base.network.layers, strict=True):  # type: ignore[call-overload]
            mine.load_state_dict(theirs.state_dict())
    anchors = first_points(problem, points, seed=0)["residual"][0].numpy()
    return Timed(dde.data.TimePDE(in_time(), equation(problem.nu), [], anchors=anchors), net, problem)


def best(problem: Burgers, lengths: Lengths, base: pl.Solution | None = None) -> Timed:
    """Adam where it starts from scratch, rounds of L-BFGS on ever more points, then NNCG."""
    model = like_ours(problem, lengths.points, base)
    if base is None:
        model.phase("adam", lengths.adam, lengths.every, lr=1e-3)
    for number in range(lengths.rounds):
        if number:
            with model.clock():
                add_points(model, lengths.points // 4, seed=number)
        model.phase("L-BFGS", lengths.lbfgs, lengths.every)
    options = {"rank": 50, "mu": 1e-1, "cgmaxiter": lengths.conjugate}
    with patch.dict(dde.optimizers.NNCG_options, options), patch("builtins.print"):  # it complains of cgtol every step
        model.phase("NNCG", lengths.nncg, 1, lengths.nncg_seconds)
    return model


def add_points(model: Timed, extra: int, *, seed: int) -> None:
    """As in `points.grow`: drawn with probability proportional to |r| / mean |r| + 1 from eight times as many."""
    pool = model.problem.domain.sample(8 * extra, seed=1_000_003 + seed).numpy().astype(dde.config.real(np))
    size = np.abs(model.predict(pool, operator=model.data.pde))[:, 0].astype(np.float64)
    weights = size / size.mean() + 1.0
    chosen = np.random.default_rng(seed).choice(len(pool), extra, replace=False, p=weights / weights.sum())
    model.data.add_anchors(pool[chosen])


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """DeepXDE in this type, and torch's default, which NNCG takes; afterwards as before. DeepXDE draws from the global
    generators, seeded here."""
    real, drawn = dde.config.real, np.random.get_state()
    before, default = real.precision, torch.get_default_dtype()
    real.__init__(int(dtype.removeprefix("float")))
    torch.set_default_dtype(real(torch))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            yield
    finally:
        real.__init__(before)
        torch.set_default_dtype(default)
        np.random.set_state(drawn)
        dde.grad.clear()


def ours(solution: pl.Solution) -> dict[str, Any]:
    return told([(record.seconds, record.relative_l2) for record in solution.history], str(solution.status))


def theirs(model: Timed) -> dict[str, Any]:
    return told(model.trace, f"{model.train_state.iteration} iterations")


def told(trace: Sequence[tuple[float, float]], ended: str) -> dict[str, Any]:
    times = {f"to {goal:.0e}": time_to(goal, trace) for goal in GOALS}
    return {"relative_l2": trace[-1][1], "seconds": trace[-1][0], **times, "ended": ended, "trace": trace}


def time_to(goal: float, trace: Sequence[tuple[float, float]]) -> float | None:
    """The first recorded second at which the error is at most `goal`; None where it never is."""
    return next((second for second, error in trace if error <= goal), None)


WAYS: dict[str, Callable[[Burgers, Lengths, pl.Solution, str], dict[str, Any]]] = {
    "ours, adapted": lambda problem, n, base, dtype: ours(
        pl.finetune(
            base, problem, method="odelora-implicit", rank=4, points=n.points, max_steps=n.finetune, dtype=dtype
        )
    ),
    "DeepXDE, our set-up, from the base": lambda problem, n, base, dtype: theirs(best(problem, n, base)),
    "ours, from scratch": lambda problem, n, base, dtype: ours(
        pl.pretrain(problem, points=n.points, max_steps=n.pretrain, dtype=dtype)
    ),
    "DeepXDE, our set-up, from scratch": lambda problem, n, base, dtype: theirs(best(problem, n)),
    "DeepXDE, as published": lambda problem, n, base, dtype: theirs(published(problem, n)),
}


def base_of(record: dict[str, Any], dtype: str, lengths: Lengths, out: Path) -> pl.Solution:
    """The base, trained once and kept beside the file."""
    problem, folder = Burgers(nu=BASE / math.pi), out.with_name(f"{out.stem}-base-{dtype}")
    if dtype in record["bases"] and folder.is_dir():
        return pl.Solution.load(folder, problem=problem)
    base = pl.pretrain(problem, points=lengths.points, max_steps=lengths.pretrain, dtype=dtype)
    with whole(folder) as place:
        base.save(place)
    record["bases"][dtype] = ours(base)
    write(record, out)
    return base


def write(record: dict[str, Any], out: Path) -> None:
    write_atomically(out, json.dumps(record, indent=1) + "\n")


def run(record: dict[str, Any], dtype: str, lengths: Lengths, out: Path, members: dict[str, float]) -> None:
    """Every row of a type that is not there yet; the file is written after each."""
    base = base_of(record, dtype, lengths, out)
    charged = record["bases"][dtype]["seconds"]
    print(f"{dtype}: the base reaches {record['bases'][dtype]['relative_l2']:.1e} in {charged:.0f} s", flush=True)
    for member, factor in members.items():
        problem = Burgers(nu=factor / math.pi)
        zero_shot = pl.Solution(problem, base.network).relative_l2()
        for way, make in WAYS.items():
            key = {"dtype": dtype, "member": member, "way": way}
            if not any(key.items() <= row.items() for row in record["rows"]):
                with precision(dtype):
                    record["rows"].append({**key, "zero_shot": zero_shot, **make(problem, lengths, base, dtype)})
                write(record, out)
            row = next(row for row in record["rows"] if key.items() <= row.items())
            print(line(row), flush=True)
            if way == "ours, adapted":
                print(line(row, charged), flush=True)


def line(row: dict[str, Any], charged: float = 0.0) -> str:
    """One line of the table, with the base's seconds charged where they are given."""
    times = [row[f"to {goal:.0e}"] for goal in GOALS]
    shown = [f"{'-' if time is None else f'{time + charged:.1f}':>8}" for time in times]
    way = row["way"] + (", its base charged" if charged else "")
    told = (
        f"| {row['dtype']} | {row['member']:<14} | {way:<35} | {' | '.join(shown)} | {row['seconds'] + charged:8.1f} "
    )
    return f"{told}| {row['relative_l2']:.1e} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="DeepXDE and this package side by side.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one member and a few steps: shows that it runs")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/against_deepxde.json"))
    given = parser.parse_args(arguments)
    lengths = QUICK if given.quick else Lengths()
    about = {"threads": given.threads, "machine": {**machine(), **versions()}, "lengths": asdict(lengths)}
    record = json.loads(given.out.read_text()) if given.out.is_file() else {**about, "bases": {}, "rows": []}
    if any(record.get(key) != value for key, value in about.items()):
        parser.error(f"{given.out} holds rows of another length, machine or version; choose another --out")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads)
    header = ["type", "member", "way", *(f"seconds to {goal:.0e}" for goal in GOALS), "seconds", "relative L2"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    try:
        for dtype in ("float64", "float32"):
            run(record, dtype, lengths, given.out, dict(list(MEMBERS.items())[: 1 if given.quick else None]))
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
