"""What training reaches with its defaults, and how long it takes: pretraining, fine-tuning, and any first step size.

    python benchmarks/accuracy.py [--threads 1] [--quick] [--out results/benchmarks/accuracy.json]

Burgers at nu = 0.01/pi from scratch; then 0.01/pi -> 0.02/pi at rank 4, three seeds; with biases and the output layer at ranks
1 to 16, for at most 60 s; then from first step sizes 1e-6 to 1e8.
Seconds are of the whole call; on one thread CPU seconds, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch
from pinn_lora.problems.burgers import Burgers
from side_by_side import machine, write

import pinn_lora as pl
from pinn_lora import clock

CPU = torch.device("cpu")
FIRST_STEP_SIZES = [10.0**k for k in range(-6, 9, 2)]
RANKS, GOAL = [1, 2, 4, 8, 16], 1e-5  # with biases and the output layer


def timed(call):
    start = clock.seconds(CPU)
    solution = call()
    return solution, clock.seconds(CPU) - start


def row(name: str, solution: pl.Solution, seconds: float) -> dict:
    found = {
        "name": name,
        "relative_l2": solution.relative_l2(),
        "zero_shot": solution.compare_to_base() if solution.base else None,
        "seconds": seconds,
        "steps": solution.history[-1].step,
        "seconds_to_goal": next((one.seconds for one in solution.history if one.relative_l2 <= GOAL), None),
        "status": str(solution.status),
    }
    zero_shot = f"zero-shot {found['zero_shot']:.2e}" if solution.base else ""
    print(
        f"{name:<48} {found['relative_l2']:.2e}  {seconds:6.1f} s  {found['steps']:4d} steps  {zero_shot}", flush=True
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What training reaches with its defaults.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, two first step sizes, a short pretraining")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/accuracy.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    problem, target = Burgers(nu=0.01 / math.pi), Burgers(nu=0.02 / math.pi)

    base, seconds = timed(lambda: pl.pretrain(problem, max_steps=60 if arguments.quick else None))
    rows = [row("pretrain, nu = 0.01/pi", base, seconds)]
    seeds = range(1 if arguments.quick else 3)
    for seed in seeds:
        tuned, seconds = timed(
            lambda seed=seed: pl.finetune(base, target, method="odelora-implicit", rank=4, seed=seed)
        )
        rows.append(row(f"odelora-implicit, seed {seed}", tuned, seconds))
    tunings = rows[1:]
    median = {key: statistics.median(r[key] for r in tunings) for key in ("relative_l2", "seconds")}
    print(f"{'median of the seeds':<48} {median['relative_l2']:.2e}  {median['seconds']:6.1f} s")
    more = {
        "train_biases": True,
        "train_output": True,
        "max_steps": 20 if arguments.quick else 600,
        "max_seconds": 60.0,
    }
    for rank in RANKS[2:3] if arguments.quick else RANKS:
        for seed in seeds:
            tuned, seconds = timed(lambda rank=rank, seed=seed: pl.finetune(base, target, rank=rank, seed=seed, **more))
            rows.append(row(f"with biases and output layer, rank {rank}, seed {seed}", tuned, seconds))
    works = {}
    for h in FIRST_STEP_SIZES[:: 7 if arguments.quick else 1]:
        ends = []
        for seed in seeds:
            tuned, seconds = timed(lambda h=h, seed=seed: pl.finetune(base, target, rank=4, step_size=h, seed=seed))
            ends.append(row(f"odelora-implicit, first step size {h:.0e}, seed {seed}", tuned, seconds))
        works[f"{h:.0e}"] = all(e["status"] != "DIVERGED" and e["relative_l2"] < e["zero_shot"] / 4 for e in ends)
        rows += ends
    print("works (every seed below a quarter of zero-shot):", works)
    write(arguments.out, {"machine": machine(), "rows": rows, "median": median, "works": works})


if __name__ == "__main__":
    main()
