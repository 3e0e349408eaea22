"""Cells: the same seeds give the same tuned step size, and a diverged seed counts as infinite."""

import math
from pathlib import Path

import pytest

from pinn_lora.cells import Case, Cell, Run, Variant, in_common_units, median, short


def make_run(*, loss: float, error: float, status: str = "COMPLETED", adaptive: bool = False, **told) -> Run:
    record = {"status": status, "adaptive": adaptive, "relative_l2": error, "held_out_loss": loss}
    return Run.read(Path(), record | {"start": "zero_b", "method": "a"} | told)


def make_cell(step_size: float, *runs: Run) -> Cell:
    return Cell(step_size, runs, zero_shot=0.4)


def make_variant(*cells: Cell, tuned_by: int | None = None) -> Variant:
    runs = tuple(run for cell in cells for run in cell.runs)
    return Variant(Case("case", "A case", {}, 0.4, Path()), runs, cells, tuned_by)


def seeded(losses: dict[int, float | None]) -> list[Run]:
    """A run a seed; a loss of None is a diverged run."""
    ended = {seed: "COMPLETED" if loss is not None else "DIVERGED" for seed, loss in losses.items()}
    return [make_run(loss=loss or 0.0, error=0.1, status=ended[seed], seed=seed) for seed, loss in losses.items()]


def test_the_tuned_cell_has_the_lowest_held_out_loss_and_never_looks_at_the_error():
    low, high = make_run(loss=1.0, error=0.3), make_run(loss=2.0, error=0.01)
    assert make_variant(make_cell(0.1, high), make_cell(1.0, low)).tuned == make_cell(1.0, low)


def test_the_tuned_cell_is_one_with_the_most_seeds():
    scanned, run = make_cell(0.1, make_run(loss=0.5, error=0.1)), make_run(loss=1.0, error=0.1)
    assert make_variant(scanned, make_cell(1.0, run, run, run)).tuned == make_cell(1.0, run, run, run)


@pytest.mark.parametrize(
    ("cells", "tuned", "left_over"),
    [
        ({0.1: {7: 2.0, 8: 0.1, 9: 0.1}, 1.0: {7: 1.0, 8: 3.0, 9: 3.0}}, 1.0, 2),  # as many seeds, and a lower median
        ({0.1: {7: 2.0, 8: 0.1, 9: 0.1}, 1.0: {7: 1.0}}, 1.0, 2),  # the others are yet to come
        ({0.1: {7: 1.0}, 1.0: {7: 2.0}}, 0.1, 0),
        ({0.1: {7: None}, 1.0: {7: 5.0}}, 1.0, 0),
        ({0.1: {7: None}, 1.0: {7: None, 8: None}}, 1.0, 0),  # where all diverged, the others were run somewhere
        ({0.1: {8: 0.1, 9: 0.1}, 1.0: {7: 1.0}}, 1.0, 2),  # never by seeds that do not tune
        ({0.1: {8: 2.0}, 1.0: {8: 1.0}}, 1.0, 1),  # but where there is nothing else
    ],
)
def test_where_a_study_tunes_with_one_seed_that_seeds_loss_alone_chooses(cells, tuned, left_over):
    for order in (1, -1):
        variant = make_variant(
            *[make_cell(h, *seeded(losses)) for h, losses in list(cells.items())[::order]], tuned_by=7
        )
        assert variant.tuned is not None
        assert (variant.tuned.step_size, variant.left_over) == (tuned, left_over)


def test_a_full_scan_leaves_nothing_over():
    variant = make_variant(make_cell(0.1, *seeded({0: 1.0, 1: 1.0})), make_cell(1.0, *seeded({0: 0.5, 1: 0.5})))
    assert variant.left_over == 0


@pytest.mark.parametrize("status", ["DIVERGED", "REFUSED"])
def test_a_run_that_diverged_or_was_refused_failed(status):
    run = make_run(loss=0.1, error=0.1, status=status)
    assert run.failed and run.error == run.loss == math.inf
    assert run.refused == (status == "REFUSED")


def test_a_cell_says_by_which_clocks_it_was_timed():
    timed = lambda clock, **told: make_run(loss=0.1, error=0.1, clock=clock, **told)  # noqa: E731
    assert make_cell(1.0, timed("CPU"), timed("CPU")).clocks == "CPU"
    assert make_cell(1.0, timed("CPU"), timed("wall")).clocks == "CPU and wall"
    assert make_cell(1.0, timed("CPU"), timed(None)).clocks == "CPU and wall", "an older version's is the wall's"
    assert make_cell(1.0, timed("CPU"), timed(None, status="REFUSED")).clocks == "CPU"


def test_one_unit_is_the_median_of_a_case_trainable_set_and_clock():
    same = {"case": "one", "trains": "factors", "clock": "CPU"}
    told = [
        (same, 1.0),
        (same, 2.0),
        (same, 9.0),
        (same | {"case": "two"}, 3.0),
        (same | {"trains": "all weights"}, 4.0),
    ]
    told += [(same | {"clock": "wall"}, 5.0), (same, None)]
    runs = [make_run(loss=1.0, error=0.1, seconds=36.0, work=1.0, unit_seconds=unit, **kind) for kind, unit in told]
    runs += [make_run(loss=1.0, error=0.1, seconds=36.0, work=7.0, case="none", trains="factors")]
    runs += [make_run(loss=1.0, error=0.1, seconds=None, work=8.0, unit_seconds=2.0, **same)]
    found = in_common_units(runs)
    assert [run.record["work"] for run in found] == [18.0, 18.0, 18.0, 12.0, 9.0, 7.2, 18.0, 7.0, 8.0]
    assert [run.record.get("unit_seconds") for run in found] == [run.record.get("unit_seconds") for run in runs]


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
