"""Cells: the same seeds give the same tuned step size, and a diverged seed counts as infinite."""

import math
from dataclasses import fields
from pathlib import Path

import pytest

from pinn_lora.cells import Case, Cell, Run, Variant, median, short


def make_run(*, loss: float, error: float, status: str = "COMPLETED", adaptive: bool = False) -> Run:
    record = {
        "status": status,
        "adaptive": adaptive,
        "relative_l2": error,
        "held_out_loss": loss,
        "start": "zero_b",
        "method": "a",
    }
    return Run(
        Path(), record, **{f.name: record.get(f.name) for f in fields(Run) if f.name not in ("folder", "record")}
    )


def make_cell(step_size: float, *runs: Run) -> Cell:
    return Cell(step_size, runs, zero_shot=0.4)


def make_variant(*cells: Cell) -> Variant:
    runs = tuple(run for cell in cells for run in cell.runs)
    return Variant(Case("case", "A case", {}, 0.4, Path()), runs, cells)


def test_the_tuned_cell_has_the_lowest_held_out_loss_and_never_looks_at_the_error():
    low, high = make_run(loss=1.0, error=0.3), make_run(loss=2.0, error=0.01)
    assert make_variant(make_cell(0.1, high), make_cell(1.0, low)).tuned == make_cell(1.0, low)


def test_the_tuned_cell_is_one_with_the_most_seeds():
    scanned, run = make_cell(0.1, make_run(loss=0.5, error=0.1)), make_run(loss=1.0, error=0.1)
    assert make_variant(scanned, make_cell(1.0, run, run, run)).tuned == make_cell(1.0, run, run, run)


@pytest.mark.parametrize(
    ("losses", "adaptive", "edge"),
    [
        ((1.0, 2.0, 3.0), False, True),
        ((2.0, 1.0, 3.0), False, False),
        ((3.0, 2.0, 1.0), False, True),
        ((3.0, 2.0, 1.0), True, False),
        ((2.0, 1.0), False, True),
        ((1.0,), False, False),
        ((), False, False),
    ],
)
def test_a_tuned_step_size_at_the_edge_of_those_tried_is_told(losses, adaptive, edge):
    runs = [make_run(loss=loss, error=0.1, adaptive=adaptive) for loss in losses]
    cells = [make_cell(10.0**k, run) for k, run in enumerate(runs)]
    assert make_variant(*cells).at_edge is edge
    assert make_variant(*reversed(cells)).at_edge is edge, "whatever their order"


def test_a_diverged_seed_counts_as_infinite():
    good = make_run(loss=1.0, error=0.05)
    bad = make_run(loss=0.1, error=0.01, status="DIVERGED")
    one, two = make_cell(1.0, good, good, bad), make_cell(1.0, good, bad, bad)
    assert (one.diverged, one.held_out, median(one.errors), one.works) == (1, 1.0, 0.05, False)
    assert (two.diverged, two.held_out, median(two.errors)) == (2, math.inf, math.inf)


def test_a_cell_works_when_every_seed_is_below_a_quarter_of_zero_shot():
    below, above = make_run(loss=1.0, error=0.099), make_run(loss=1.0, error=0.1)
    assert make_cell(1.0, below, below).works
    assert not make_cell(1.0, below, above).works


@pytest.mark.parametrize(
    ("value", "text"), [(1.5e-4, "1.5e-4"), (2.0, "2.0e0"), (float("nan"), "–"), (float("inf"), "diverged")]
)
def test_short_numbers(value, text):
    assert short(value) == text
