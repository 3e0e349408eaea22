"""The mark on a relative L2 error that is too near the reference's own to be known to two digits.

A reference that is computed is off by up to its bound b, a relative L2 error too; an error e taken against it is then off by up
to b (1 + e), to first order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pinn_lora.cells import Row, largest, median, number, short

KNOWN = 100.0  # times the reference's own error: from there on an error is known to two digits
MARK = "†"


def near(error: float | None, bound: float | None) -> bool:
    """Whether an error is below 100 times the reference's bound; never where either is missing."""
    return number(error) < KNOWN * number(bound)


def told_error(error: float | None, bound: float | None) -> str:
    """An error in words, marked where it is near its reference's own."""
    return short(number(error)) + (MARK if near(error, bound) else "")


def bound_of_median(errors: Sequence[float], bounds: Sequence[float | None]) -> float:
    """By how much the median of errors is off at most, each being off by its bound; nan where none has one."""
    middle = median(errors)
    if math.isnan(largest(bounds)) or not math.isfinite(middle):
        return math.nan
    pairs = [(e, 0.0 if math.isnan(number(b)) else number(b)) for e, b in zip(errors, bounds, strict=True)]
    return max(median(e + b for e, b in pairs) - middle, middle - median(e - b for e, b in pairs))


def marked(row: Row, bounds: Mapping[str, float | None]) -> Row:
    """The row with `near_reference`: its columns of these, with their bounds, that a page marks; a space between them."""
    return row | {"near_reference": " ".join(key for key, bound in bounds.items() if near(row[key], bound))}
