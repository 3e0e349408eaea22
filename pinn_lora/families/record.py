"""family.json: which member of a family is reached from which, with what options; written, and read with every key checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pinn_lora.adapters import describe_problem, fingerprint
from pinn_lora.families.neighbours import varying
from pinn_lora.folders import clear_partial, in_use, write_atomically
from pinn_lora.problem import Problem
from pinn_lora.scalars import json_text
from pinn_lora.solution import Solution

RECORD, MEMBERS = "family.json", "members"
FLOATS = (float, np.floating)


def family_record(
    base: Solution,
    members: Sequence[Problem],
    parents: Sequence[int | None],
    points: Sequence[int],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What family.json says: the plan, and what the members are made with."""
    names, entries = varying([base.problem, *members]), []
    for i, (member, parent, count) in enumerate(zip(members, parents, points, strict=True)):
        values = [(name, getattr(member, name)) for name in names]
        told = "-".join(f"{name}-{value:.4g}" for name, value in values if isinstance(value, FLOATS))
        folder = re.sub(r"[^A-Za-z0-9.+-]", "-", f"{i + 1:03d}-{told}".rstrip("-"))
        entries.append({"folder": folder, "parent": parent, "points": count, "problem": describe_problem(member)})
    plain = {
        key: value if isinstance(value, (int, float, dict)) or value is None else str(value)
        for key, value in options.items()
    }
    record = {"kind": "family", "base": fingerprint(base.network), "options": plain, "members": entries}
    return json.loads(json_text(record))  # as it is read again


def read_record(folder: Path) -> dict[str, Any]:
    """What family.json says. ValueError where there is none, and where what `Family.load` reads of it is missing or cannot
    be meant."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):  # no text and no JSON are ValueErrors
        record = None
    if not isinstance(record, dict) or record.get("kind") != "family":
        raise ValueError(f"{folder} holds no family: there is no {RECORD} in it that describes one")
    if wrong := _damage(record):
        raise ValueError(f"{path} is damaged: {wrong}; put the file back, or solve the family again in another folder")
    return record


def _damage(record: Mapping[str, Any]) -> str | None:
    """The first thing in a record that is not as `family_record` writes it; None where there is nothing."""
    if not isinstance(record.get("base"), str):
        return "it does not say its base's fingerprint under 'base'"
    entries = record.get("members")
    if not isinstance(entries, list) or not entries:
        return "it lists no members under 'members'"
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"folder", "parent"} <= entry.keys():
            return f"its member {number} has not both 'folder' and 'parent'"
        name, parent = entry["folder"], entry["parent"]
        if not isinstance(name, str) or not re.fullmatch(r"[0-9]+[A-Za-z0-9.+-]*", name):
            return f"its member {number} has the folder {name!r}, and a member's begins with its number"
        if parent is not None and (type(parent) is not int or not 0 <= parent < len(entries)):
            return f"its member {number} has the parent {parent!r}; it must be null or 0 to {len(entries) - 1}"
    return _circle([entry["parent"] for entry in entries])


def _circle(parents: Sequence[int | None]) -> str | None:
    """Names a member from which no chain of parents leads to the base."""
    for number, parent in enumerate(parents, start=1):
        for _ in parents:  # a chain is no longer than there are members
            parent = None if parent is None else parents[parent]
        if parent is not None:
            return f"the parents of its member {number} never lead back to the base"
    return None


def open_folder(
    folder: Path, record: dict[str, Any], base: Solution, members: Sequence[Problem]
) -> dict[int, Solution]:
    """Makes the folder, or reads the members that it has of this very family."""
    if not in_use(folder):
        (folder / MEMBERS).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RECORD, json_text(record, indent=1))
        return {}
    if read_record(folder) != record:
        raise ValueError(
            f"{folder} holds a family of another base, other members or other options; nothing was changed: "
            "choose another folder"
        )
    clear_partial(folder / MEMBERS)
    places = {i: folder / MEMBERS / entry["folder"] for i, entry in enumerate(record["members"])}
    return {i: Solution.load(p, base=base, problem=members[i]) for i, p in places.items() if p.is_dir()}
