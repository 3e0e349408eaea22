"""Which layers, which ranks, restarts and chains: what each choice is worth beside plain LoRA and beside every other choice.

    python benchmarks/structure.py [--only layers ranks] [--quick] [--out results/benchmarks/structure.json]    # an hour

Burgers from nu = 0.01/pi, 3 x 24, one thread, three seeds, relative L2 of the last iterate, CPU seconds of the whole call.
`layers`: every two of the four linear layers at rank 4, and those that `select_layers` names. `ranks`: every way of giving
eight directions to the two hidden layers, and those that `select_ranks` names after a fine-tuning at rank 8. Both to two
viscosities, by odelora-implicit. `restarts`: `rac_lora` in eight rounds beside lora-adam, ranks 1 and 4. `chain`: three
viscosities in turn by `sd_lora`, by lora-adam from the base at the rank that the chain has come to, and by lora-adam at rank 4
from the factors of the one before. Restarts and chains: as many gradients each, and the step size that gave the first seed the
lowest held-out loss, of the last viscosity.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, write

import pinn_lora as pl
from pinn_lora import clock
from pinn_lora.lora import Blocks, target_layers

CPU = torch.device("cpu")
FAR = [0.02 / math.pi, 0.1 / math.pi]
NEAR = [0.012 / math.pi, 0.015 / math.pi, 0.02 / math.pi]
STEP_SIZES = [3e-3, 1e-2]
ROUNDS = 8


def row(name: str, solutions: Sequence[pl.Solution], seconds: Sequence[float], **more: Any) -> dict[str, Any]:
    """What one way reached, every seed and the median."""
    errors = [solution.history[-1].relative_l2 for solution in solutions]
    found = {"name": name, **more, "relative_l2": errors, "median": statistics.median(errors), "seconds": list(seconds)}
    print(f"{name:<44} {found['median']:.2e}  {statistics.median(seconds):6.1f} s  {more}", flush=True)
    return found


def timed(call: Callable[..., Any], *given: Any, **named: Any) -> tuple[Any, float]:
    """What the call returns, and its CPU seconds."""
    start = clock.seconds(CPU)
    return call(*given, **named), clock.seconds(CPU) - start


def place(chosen: str, by_choice: Mapping[str, Sequence[float]], seed: int) -> int:
    """Of a choice among all, from 1, by what they reached with this seed."""
    return 1 + sum(errors[seed] < by_choice[chosen][seed] for errors in by_choice.values())


def choices(
    base: pl.Solution,
    member: Burgers,
    ways: Mapping[str, Mapping[str, int]],
    select: Callable[[int], Mapping[str, int]],
    seeds: Sequence[int],
    **options: Any,
) -> list[dict[str, Any]]:
    """A row for every choice of ranks by layer, and one for what `select` names with each seed."""
    rows, names = [], {tuple(sorted(ranks.items())): name for name, ranks in ways.items()}
    for name, ranks in ways.items():
        found = [timed(pl.finetune, base, member, rank=ranks, seed=seed, **options) for seed in seeds]
        rows.append(row(name, *zip(*found, strict=True), nu=member.nu, unknowns=Blocks(found[0][0].network).size))
    picked = [timed(select, seed) for seed in seeds]
    chosen = [names[tuple(sorted(ranks.items()))] for ranks, _ in picked]
    by_choice = {r["name"]: r["relative_l2"] for r in rows}
    places = [place(name, by_choice, at) for at, name in enumerate(chosen)]
    reached = [by_choice[name][at] for at, name in enumerate(chosen)]
    taken = [seconds for _, seconds in picked]
    told = {"nu": member.nu, "chosen": chosen, "place": places, "of": len(ways)}
    print(told, flush=True)
    return [
        *rows,
        {"name": "selected", **told, "relative_l2": reached, "median": statistics.median(reached), "seconds": taken},
    ]


def layers(base: pl.Solution, seeds: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Every two of all linear layers, and the two that DiffoRA's gates name."""
    options: dict[str, Any] = {"max_steps": 5, "points": 200} if quick else {}
    names = target_layers(base.network, "all")
    ranks = {name: min(4, *base.network.get_parameter(f"{name}.weight").shape) for name in names}
    ways = {" + ".join(pair): {name: ranks[name] for name in pair} for pair in itertools.combinations(names, 2)}
    rows = []
    for nu in FAR:
        member = Burgers(nu=nu)

        def select(seed: int, member: pl.Problem = member) -> dict[str, int]:
            kept = pl.select_layers(base, member, 2, seed=seed, steps=10 if quick else 300)
            return {name: ranks[name] for name in kept}

        rows += choices(base, member, ways, select, seeds, **options)
    return rows


def ranks(base: pl.Solution, seeds: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Every split of eight directions over the hidden layers, and SubLoRA's."""
    options: dict[str, Any] = {"max_steps": 5, "points": 200} if quick else {}
    first, second = target_layers(base.network, "hidden")
    splits = [{first: k, second: 8 - k} for k in range(9)]
    ways = {f"{k} + {8 - k}": {name: r for name, r in split.items() if r} for k, split in enumerate(splits)}
    rows = []
    for nu in FAR:
        member = Burgers(nu=nu)

        def select(seed: int, member: pl.Problem = member) -> dict[str, int]:
            return pl.select_ranks(pl.finetune(base, member, rank=8, seed=seed, **options), 8, seed=seed)

        rows += choices(base, member, ways, select, seeds, **options)
    return rows


def tuned(
    name: str,
    solve: Callable[[int, float], list[pl.Solution]],
    nus: Sequence[float],
    seeds: Sequence[int],
    quick: bool,
    **more: Any,
) -> list[dict]:
    """A row for every solution in the list that `solve` makes with a seed and a step size, one for each nu."""
    first = {h: timed(solve, seeds[0], h) for h in STEP_SIZES[: 1 if quick else None]}
    h = min(first, key=lambda h: first[h][0][-1].history[-1].held_out_loss)
    found = [first[h], *(timed(solve, seed, h) for seed in seeds[1:])]
    ways = zip(*(solutions for solutions, _ in found), strict=True)
    taken = [seconds for _, seconds in found]
    return [row(name, ended, taken, nu=nu, step_size=h, **more) for nu, ended in zip(nus, ways, strict=True)]


def restarts(base: pl.Solution, seeds: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """RAC-LoRA's rounds and one run of plain LoRA, as many gradients."""
    member, steps = Burgers(nu=FAR[0]), 16 if quick else 10_000
    options = {"points": 200 if quick else 1000, "compile": not quick}
    rows = []
    for rank in (1, 4):

        def rac(seed: int, h: float, rank: int = rank) -> list[pl.Solution]:
            each, chances = steps // ROUNDS, max(steps // ROUNDS // 2, 1)
            spaced = {"max_steps": each, "resample_every": chances}
            return [pl.rac_lora(base, member, rounds=ROUNDS, rank=rank, seed=seed, step_size=h, **spaced, **options)]

        def plain(seed: int, h: float, rank: int = rank) -> list[pl.Solution]:
            spaced = {"max_steps": steps, "resample_every": max(steps // ROUNDS, 1)}
            return [
                pl.finetune(base, member, method="lora-adam", rank=rank, seed=seed, step_size=h, **spaced, **options)
            ]

        rows += tuned("rac_lora", rac, FAR[:1], seeds, quick, rank=rank) + tuned(
            "lora-adam", plain, FAR[:1], seeds, quick, rank=rank
        )
    return rows


def chain(base: pl.Solution, seeds: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Three members in turn: SD-LoRA, plain LoRA from the base at the chain's rank, plain LoRA from the one before."""
    members, rank = [Burgers(nu=nu) for nu in NEAR], 4
    options: dict[str, Any] = {
        "points": 200 if quick else 1000,
        "max_steps": 10 if quick else 5000,
        "resample_every": 500,
    }

    def sd(seed: int, h: float) -> list[pl.Solution]:
        return pl.sd_lora(base, members, rank=rank, seed=seed, step_size=h, **options)

    def straight(seed: int, h: float) -> list[pl.Solution]:
        one = lambda k, m: pl.finetune(base, m, method="lora-adam", rank=rank * k, seed=seed, step_size=h, **options)  # noqa: E731
        return [one(k, member) for k, member in enumerate(members, 1)]

    def from_before(seed: int, h: float) -> list[pl.Solution]:
        found: list[pl.Solution] = []
        for member in members:
            shape = {"start": found[-1]} if found else {"rank": rank}
            found.append(pl.finetune(base, member, method="lora-adam", seed=seed, step_size=h, **shape, **options))
        return found

    ways = {"sd_lora": sd, "lora-adam, from the base": straight, "lora-adam, from the one before": from_before}
    return [found for name, solve in ways.items() for found in tuned(name, solve, NEAR, seeds, quick)]


PARTS = {part.__name__: part for part in (layers, ranks, restarts, chain)}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Layers, ranks, restarts and chains.")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts alone")
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: shows that it runs")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/structure.json"))
    arguments = parser.parse_args(given)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    seeds = range(1 if arguments.quick else 3)
    record: dict[str, Any] = {"machine": machine()}
    short: dict[str, Any] = {"max_steps": 20, "points": 200} if arguments.quick else {}
    try:
        base = pl.pretrain(Burgers(nu=0.01 / math.pi), seed=0, **short)
        record["zero_shot"] = {
            f"{nu:.6f}": pl.Solution(Burgers(nu=nu), base.network).relative_l2() for nu in NEAR + FAR[1:]
        }
        for name in arguments.only:
            record[name] = PARTS[name](base, seeds, arguments.quick)
            write(arguments.out, record)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
