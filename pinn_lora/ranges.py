"""Ranges of numeric options: what an option may be, and one sentence for what it may not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Range:
    """The finite numbers x with x >= `ge`, x > `gt`, x <= `le` and x < `lt`, of those that are given; whole ones if `whole`."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        kind: Any = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # an int that no float holds
            return False
        low = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        return low and (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)

    def __str__(self) -> str:
        """In words: "at least 0 and below 1", "above 0 and finite", "a whole number, at least 1"."""
        bounds = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        said = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        if self.whole:
            return ", ".join(["a whole number", *([" and ".join(said)] if said else [])])
        return " and ".join(said if self.le is not None or self.lt is not None else [*said, "finite"])


POSITIVE = Range(gt=0)
NOT_NEGATIVE = Range(ge=0)
AVERAGE = Range(ge=0, lt=1)  # the weight of the past in a moving average
COUNT = Range(ge=1, whole=True)
COUNT_OR_NONE = Range(ge=0, whole=True)


def must_be(range_: Range, **given: Any) -> None:
    """ValueError that names the first of the arguments that lies outside of the range; None is no argument."""
    for name, value in given.items():
        if value is not None and value not in range_:
            raise ValueError(f"{name} is {value!r}; it must be {range_}")


def check_ranges(settings: object, **ranges: Range) -> None:
    """ValueError that names the first of the settings' fields, each given with its range, that lies outside of it. What the
    settings are called is their file's stem, their name in a config."""
    called = type(settings).__module__.rpartition(".")[2]
    for name, range_ in ranges.items():
        value = getattr(settings, name)
        if value not in range_:
            raise ValueError(f"{called}: {name} is {value!r}; it must be {range_}")
