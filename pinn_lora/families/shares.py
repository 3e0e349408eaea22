"""The seconds of a family over those from scratch, of what succeeded: a run that failed was mostly a short one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pinn_lora.cells import median
from pinn_lora.families.equal_error import NEVER, REACHED, adapted_row
from pinn_lora.families.rows import Row, counted, error_in, place_of, told


def failure(own: Sequence[Row], made: Row, varied: Sequence[str], key: str) -> str:
    """Why a run from scratch and the adapted member of its problem and seed are not compared; "" where they are."""
    if made["status"] == "DIVERGED":
        return "from scratch diverged"
    adapted = adapted_row(own, made, varied)
    if adapted is None or adapted["status"] == "DIVERGED":
        return ""  # what is not there or diverged is left out by itself
    ended_above = REACHED not in made and error_in(made, key) > error_in(adapted, key)  # no history was kept
    return "from scratch never reached the adapted error" if ended_above or made.get(REACHED) == NEVER else ""


def share_row(own: Sequence[Row], made: Sequence[Row], base: Row, varied: Sequence[str], key: str) -> Row:
    """A seed's seconds, and at how many members adapting is as quick as from scratch.

    With b the base's seconds, a the mean of a member's and s the mean of one from scratch, n members cost b + n a against
    n s; break_even is the smallest n at which the first is no more. Of neither mean is what `left_out` names: pairs of
    which the run from scratch failed, and members that diverged, with their runs from scratch.
    """
    failed = {place_of(row, varied): why for row in made if (why := failure(own, row, varied, key))}
    failed |= {place_of(row, varied): "adapted diverged" for row in own if row["status"] == "DIVERGED"}
    a, s = (_mean([row["seconds"] for row in rows if place_of(row, varied) not in failed]) for rows in (own, made))
    b, n = base["seconds"], len(own)
    names = {place: told(dict(zip(varied, place, strict=True)), varied) for place in failed}
    return {
        "base_seconds": b,
        "family_seconds": math.fsum(row["seconds"] for row in own),
        "scratch_seconds": s,
        "share": a / s,
        "share_with_base": (a + b / n) / s,
        "break_even": math.ceil(b / (s - a)) if s > a else None,
        "left_out": "; ".join(f"{names[place]} ({why})" for place, why in failed.items()),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def share_verdict(seeds: Sequence[Row], runs: int) -> list[str]:
    """What adapting takes of the seconds from scratch, in sentences, and what that is not taken of; nothing where there are no
    runs from scratch."""
    if not runs:
        return []
    said, timed = [], [row for row in seeds if not math.isnan(row["share"])]
    if timed:
        share, charged = (100 * median(row[name] for row in timed) for name in ("share", "share_with_base"))
        even = [row["break_even"] for row in timed]
        least = "never" if None in even else f"from {counted(max(even), 'member')} on"
        said.append(
            f"Adapting takes {share:.1f} % of the seconds of training each member from scratch, {charged:.1f} % with the "
            f"base's pretraining charged (medians over seeds; from scratch measured on {counted(runs, 'run')}); it is as quick "
            f"{least}."
        )
    if left := [(row["seed"], place) for row in seeds for place in row["left_out"].split("; ") if place]:
        places = "; ".join(f"seed {seed} at {place}" for seed, place in left)
        what = "this, adapted and from scratch" if timed else "a comparison of seconds, so that there is none"
        said.append(f"Left out of {what}: {counted(len(left), 'member')}: {places}.")
    return said
