"""A made-up study for the tests of reports: its files are written by hand, so that every number in it is known."""

import csv
import json
from pathlib import Path

import numpy as np

from pinn_lora import report as module
from pinn_lora.report import report

CASE = "burgers-up"


COLUMNS = "step,loss,held_out_loss,relative_l2,work,seconds,step_size,accepted,drift,points"


# method: trains, metric, lift, integrator, optimizer, implicit, mass
METHODS = {
    "odelora-implicit": ("factors", "identity", "balanced", "rosenbrock_euler", None, True, "balanced"),
    "lora-lm": ("factors", "identity", "chain_rule", "rosenbrock_euler", None, True, "identity"),
    "odelora-euler": ("factors", "identity", "balanced", "euler", None, False, "balanced"),
    "odelora-rk4": ("factors", "identity", "balanced", "rk4", None, False, "balanced"),
    "lora-sgd": ("factors", "identity", "chain_rule", "euler", None, False, "identity"),
    "scaled-gd": ("factors", "identity", "block_diagonal", "euler", None, False, "block_diagonal"),
    "lora-adam": ("factors", None, None, None, "adam", False, None),
    "full-adam": ("all weights", None, None, None, "adam", False, None),
    "full-lm": ("all weights", "identity", None, "rosenbrock_euler", None, True, "identity"),
}


def write_study(folder: Path, *, cases: tuple[str, ...] = (CASE,), **changes) -> Path:
    (folder / "cases").mkdir(parents=True)
    (folder / "runs").mkdir()
    (folder / "config.toml").write_text("seeds = [0, 1, 2]  # <as run>\n")
    x, t = np.linspace(-1, 1, 9), np.linspace(0, 1, 5)
    field = np.sin(3 * x)[:, None] * (1 + t)
    names = np.array(["x", "t"])
    described = []
    for case in cases:
        arrays = {"axis_0": x, "axis_1": t, "names": names, "reference": field, "zero_shot": 1.4 * field}
        np.savez(folder / "cases" / f"{case}.npz", **arrays)
        about = {"id": case, "title": f"Title of {case}", "problem": "Burgers", "base": "Burgers(nu=1.0)", "rank": 4}
        about |= {"target": "Burgers(nu=2.0)", "form": "ansatz", "network": "3 x 24", "zero_shot": 0.4}
        described.append(about | {"base_error": 1e-5, "base_seconds": 12.0, "unknowns_full": 1321})
    study = {"name": "made-up", "title": "A made-up study", "description": "Known <numbers>.", "comparison": True}
    study |= {
        "command": "pinn-lora run made-up.toml",
        "started": "2025-01-01T00:00:00",
        "config": {},
        "cases": described,
    }
    study |= {"finished": "2025-01-01T01:00:00", "versions": {"numpy": "2.0"}, "seeds": [0, 1, 2]}
    study |= {"machine": {"processor": "a processor", "cores": 2, "memory_gib": 8.0, "threads": 1, "jobs": 1}}
    (folder / "study.json").write_text(json.dumps(study | changes))
    return folder


def write_run(folder: Path, method: str, step: float, seed: int, **changes) -> Path:
    """One run; `history` (rows of work, held-out loss, relative L2, drift) and `field` are files, the rest run.json."""
    history, field = changes.pop("history", None), changes.pop("field", None)
    trains, metric, lift, integrator, optimizer, implicit, mass = METHODS[method]
    run = {"case": CASE, "method": method, "start": "zero_b" if trains == "factors" else "pretrained", "trains": trains}
    run |= {"metric": metric, "lift": lift, "integrator": integrator, "optimizer": optimizer, "implicit": implicit}
    run |= {"bends": implicit, "order": None if optimizer else 4 if integrator == "rk4" else 1, "idle": []}
    run |= {"parts": {"optimizer": {"name": optimizer}} if optimizer else parts_of(metric, lift, integrator)}
    run |= {"adaptive": implicit, "mass": mass, "step_size": step, "rank": 4, "seed": seed, "unknowns": 384}
    run |= {"status": "COMPLETED", "message": "budget spent", "relative_l2": 0.2, "held_out_loss": 0.01, "steps": 100}
    run |= {"accepted": 90, "seconds": 2.0, "work": 100.0, "unit_seconds": 0.02, "threads": 1, "peak_memory_mib": 300.0}
    run |= {"counts": {"gradients": 100, "residuals": 1, "jacobians": 2, "solves": 3}} | changes
    if run["status"] in ("DIVERGED", "REFUSED"):
        run |= {"relative_l2": None, "held_out_loss": None}
    place = folder / "runs" / f"{run['case']}-{method}-{run['start']}-{step:g}-{seed}"
    place.mkdir()
    (place / "run.json").write_text(json.dumps(run | {"id": place.name}))
    if history is not None:
        rows = [f"{n},1,{loss},{l2},{work},{work / 50},1,True,{d},9" for n, (work, loss, l2, d) in enumerate(history)]
        (place / "history.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    if field is not None:
        np.savez(place / "field.npz", prediction=np.asarray(field, dtype=np.float32))
    return place


def parts_of(metric: str, lift: str | None, integrator: str) -> dict:
    """As a run of a flow tells them: of all weights the lift is the chain rule."""
    named = {"metric": metric, "lift": lift or "chain_rule", "integrator": integrator}
    return {part: {"name": name} for part, name in named.items()} | {"decay": False}


def write_cell(folder: Path, method: str, step: float, errors: tuple, losses: tuple | None = None, **changes) -> None:
    """One run a seed; an error of None is a diverged run."""
    for seed, error in enumerate(errors):
        loss = losses[seed] if losses else error
        status = {"status": "DIVERGED"} if error is None else {}
        write_run(folder, method, step, seed, **({"relative_l2": error, "held_out_loss": loss} | status | changes))


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def variant_of(folder: Path, method: str, start: str | None = None, case: int = 0):
    found = [v for v in module.load(folder).variants[case] if v.runs[0].method == method]
    return next(variant for variant in found if start in (None, variant.runs[0].start))


def reported(folder: Path) -> Path:
    """A reported folder with two starts, a tuned step that the reference disagrees with, diverged and refused runs."""
    folder = write_study(folder)
    field = 1.01 * np.sin(3 * np.linspace(-1, 1, 9))[:, None] * (1 + np.linspace(0, 1, 5))
    history = [(0, 1.0, 0.4, 0.0), (10, 0.01, 0.09, 1e-17), (20, 0.2, 0.05, 1e-16), (40, 0.001, 0.02, 1e-15)]
    balanced = {"start": "balanced", "history": history, "field": field, "work": 40.0, "seconds": 0.8}
    write_cell(folder, "odelora-implicit", 1.0, (0.02, 0.03, 0.01), (1e-3, 1e-3, 1e-3), **balanced)
    write_cell(folder, "odelora-implicit", 100.0, (0.02, 0.03, 0.04), (2e-3, 2e-3, 2e-3), **balanced)
    write_cell(folder, "lora-lm", 1.0, (0.05, 0.06, 0.04), start="balanced")
    write_cell(folder, "lora-sgd", 1e-3, (0.15, 0.15, 0.15), (0.5, 0.5, 0.5))
    write_cell(folder, "lora-sgd", 1e-2, (0.25, 0.25, 0.3), (0.4, 0.3, 0.9))
    write_cell(folder, "lora-sgd", 1e-1, (0.01, None, None), (1e-9, None, None))
    write_cell(folder, "odelora-euler", 1e-1, (None, None, 0.2))
    for seed in range(3):
        refused = {"message": "18.8 GiB do not fit", "counts": None, "steps": None, "work": None, "seconds": None}
        write_run(folder, "full-lm", 1.0, seed, status="REFUSED", **refused)
    for name in ("unfinished", "another"):
        (folder / "runs" / name).mkdir()
    assert report(folder) == folder / "report.html"
    return folder
