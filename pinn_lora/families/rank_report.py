"""What rank against distance says: a table with a row a member, and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from pinn_lora.cells import median, number
from pinn_lora.families.figures import MEASURES
from pinn_lora.families.rows import WORKS, Row, bound_in, error_in, place_of, told
from pinn_lora.marks import told_error

SAME = 1e-9  # nearer than that a member is the base up to rounding, and there is nothing to carry over


def ranks_of(rows: Sequence[Row]) -> list[int]:
    """The ranks that were tried, in order."""
    return sorted({row["rank"] for row in rows})


def rank_table(rows: Sequence[Row], varied: Sequence[str], key: str) -> list[Row]:
    """One row a member, nearest first: zero-shot and, under rank_<r>, the error at rank r, medians over the seeds; the least
    rank that carries over (every seed ends without diverging and below a quarter of zero-shot), None where none does; and
    whether the largest does, None where that is not there yet."""
    found, largest = [], ranks_of(rows)[-1]
    for place in dict.fromkeys(place_of(row, varied) for row in sorted(rows, key=lambda row: row["distance"])):
        own = [row for row in rows if place_of(row, varied) == place]
        at = {rank: [row for row in own if row["rank"] == rank] for rank in ranks_of(own)}
        carrying = [rank for rank, made in at.items() if all(carries_over(row, key) for row in made)]
        found.append(
            {
                **dict(zip(varied, place, strict=True)),
                "distance": own[0]["distance"],
                "seeds": len({row["seed"] for row in own}),
                "zero_shot": median(number(row[MEASURES[key][0]]) for row in own),
                "reference_error": bound_in(own, key),
                **{f"rank_{rank}": median(error_in(row, key) for row in made) for rank, made in at.items()},
                "least_rank": min(carrying, default=None),
                "largest_carries_over": largest in carrying if largest in at else None,
            }
        )
    return found


def carries_over(row: Row, key: str) -> bool:
    """Whether a run ends below a quarter of the base's error there."""
    return error_in(row, key) < WORKS * number(row[MEASURES[key][0]])


def rank_verdict(rows: Sequence[Row], varied: Sequence[str], key: str) -> list[str]:
    """Which members even the largest rank does not carry the base over to, by how much, and from which distance on."""
    table, largest = rank_table(rows, varied, key), ranks_of(rows)[-1]
    table = [row for row in table if row["largest_carries_over"] is not None and row["distance"] > SAME]
    lost = [row for row in table if not row["largest_carries_over"]]
    if not lost:
        return [
            f"Straight from the base, rank {largest} carries over to all {len(table)} members, the farthest at distance "
            f"{table[-1]['distance']:.2f}."
        ]
    places = "; ".join(_lost(row, varied, largest) for row in lost)
    said = [
        f"Straight from the base, LoRA does not carry over to {len(lost)} of {len(table)} members even at rank {largest} "
        f"(above a quarter of zero-shot): {places}."
    ]
    nearest, kept = lost[0]["distance"], [row["distance"] for row in table if row["largest_carries_over"]]
    if kept and max(kept) < nearest:
        said.append(f"It carries over up to distance {max(kept):.2f} and from {nearest:.2f} on no more.")
    elif kept:
        said.append(
            f"Distance alone does not tell: the nearest of these is at {nearest:.2f}, and rank {largest} carries over as far "
            f"as {max(kept):.2f}."
        )
    return said


def _lost(row: Row, varied: Sequence[str], largest: int) -> str:
    smaller = f", though rank {row['least_rank']} does" if row["least_rank"] else ""
    against = " against ".join(told_error(row[at], row["reference_error"]) for at in (f"rank_{largest}", "zero_shot"))
    return f"{told(row, varied)} at distance {row['distance']:.2f} ({against}{smaller})"
