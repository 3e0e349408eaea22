"""Seconds at equal error: when a member that is trained from scratch first was as accurate as the adapted one at its end."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from pinn_lora.cells import median, number
from pinn_lora.families.rows import Row, counted, error_in, place_of

HISTORY, REACHED, NEVER = "history.csv", "seconds_to_adapted", "never"


def seconds_to(history: Path, error: float) -> float:
    """Seconds at the first line of a history whose relative L2 is at most `error`; infinite where none is."""
    with history.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if float(line["relative_l2"]) <= error:
                return float(line["seconds"])
    return math.inf


def adapted_row(rows: Sequence[Row], made: Row, varied: Sequence[str]) -> Row | None:
    """The row of the adapted member that a run from scratch is compared with: the same problem and seed; None before it is
    solved."""
    found = [row for row in rows if row["seed"] == made["seed"] and place_of(row, varied) == place_of(made, varied)]
    return found[0] if found else None


def to_adapted(history: Path, adapted: Row | None) -> Row:
    """What the row of a run from scratch says of the adapted member, of the same seed: the seconds to its error, or "never".
    Nothing where the history was not kept, the member is not solved yet, diverged, or has no reference."""
    error = math.inf if adapted is None else error_in(adapted, "relative_l2")
    if not history.is_file() or math.isinf(error):
        return {}
    seconds = seconds_to(history, error)
    return {REACHED: NEVER if math.isinf(seconds) else seconds}


def reached(rows: Sequence[Row]) -> float:
    """The median over runs from scratch of the seconds to the adapted error: never counts as infinite; nan where none tells."""
    told = [row[REACHED] for row in rows if row.get(REACHED) is not None]
    return median(math.inf if value == NEVER else number(value) for value in told)


def equal_error_verdict(record: Row) -> list[str]:
    """What adapting saves at equal error, in a sentence; that it is not known where no history was kept; nothing where
    nothing was trained from scratch.

    With b the median of the bases' seconds, a the adapted members' and s those from scratch to the same error, break-even is
    the smallest n >= 1 with b + n a <= n s.
    """
    told = [row for row in record["scratch"] if row.get(REACHED) is not None]
    runs = [(row, adapted) for row in told if (adapted := adapted_row(record["rows"], row, record["varied"]))]
    if not runs:
        left_out = "The seconds from scratch to the adapted error are left out: no history of that error is kept of these runs."
        return [left_out] if record["scratch"] else []
    s, a = reached([row for row, _ in runs]), median(adapted["seconds"] for _, adapted in runs)
    each = [(adapted["seconds"], reached([row])) for row, adapted in runs]
    share = median(own / other if other else math.inf for own, other in each)  # 0 s: as accurate untrained
    took = "longer than it was given" if math.isinf(s) else f"{s:.3g} s"
    part = "" if math.isinf(s) else f", {100 * share:.1f} % of it"
    never = sum(row[REACHED] == NEVER for row, _ in runs)
    base = median(row["seconds"] for row in record["bases"])
    even = f"from {counted(max(1, math.ceil(base / (s - a))), 'member')} on" if s > a else "never"
    return [
        f"To the error at which the adapted member ended, training from scratch took {took} and adapting {a:.3g} s{part} "
        f"(medians over {counted(len(runs), 'run')}{f'; {never} never reached it' if never else ''}); at this equal error "
        f"adapting, with the base's pretraining, is as quick {even}."
    ]
