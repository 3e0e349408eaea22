"""Which problems are the same function: by what they hold, whatever their own equality says."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields

from pinn_lora.problem import Problem


@dataclass(frozen=True)
class Identified:
    """A problem by its class and the values of its fields: equal for problems that are the same function."""

    kind: type[Problem]
    values: tuple
    problem: Problem = field(compare=False, repr=False)


def identified(problem: Problem) -> Identified | None:
    """A problem as what it holds; None where nobody can know which others are the same function.

    That is where its class is no dataclass itself, though it may extend one; where it holds more than its fields, or a field
    that its equality leaves out; and where a copy of a value is not equal or has another hash, as that of a tensor: such a
    value is not told by what is in it, or may change.
    """
    if "__dataclass_fields__" not in vars(type(problem)):
        return None
    parts = fields(problem)  # type: ignore[arg-type]
    if not (all(part.compare for part in parts) and {part.name for part in parts}.issuperset(vars(problem))):
        return None
    values = tuple(getattr(problem, part.name) for part in parts)
    try:
        same = hash(values) == hash(twin := copy.deepcopy(values)) and twin == values
    except Exception:  # no hash, no copy, or a comparison without a truth value
        return None
    return Identified(type(problem), values, problem) if same else None
