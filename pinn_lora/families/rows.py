"""What the tables of a family's page share: a row's error, its place in the family, and that in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pinn_lora.cells import largest, number

WORKS = 0.25  # an adapter that ends above this share of the zero-shot error did not carry over

Row = dict[str, Any]


def error_in(row: Row, key: str) -> float:
    """The error of a row; infinite where the run diverged or there is none."""
    value = number(row[key])
    return math.inf if row["status"] == "DIVERGED" or math.isnan(value) else value


def bound_in(rows: Sequence[Row], key: str) -> float:
    """What the references of these rows may err by at most, a relative L2 error; nan for residuals, for closed forms, and where
    an older version wrote the rows."""
    return largest([row.get("reference_error") for row in rows]) if key == "relative_l2" else math.nan


def place_of(row: Row, varied: Sequence[str]) -> tuple:
    """The values of the coefficients that vary."""
    return tuple(row[name] for name in varied)


def told(row: Row, varied: Sequence[str]) -> str:
    """A row's coefficients in words."""
    return ", ".join(
        f"{name} = {row[name]:.4g}" if isinstance(row[name], float) else f"{name} = {row[name]}" for name in varied
    )


def counted(n: int, what: str) -> str:
    """A number of things in words: 1 run, 3 runs."""
    return f"{n} {what}{'' if n == 1 else 's'}"
