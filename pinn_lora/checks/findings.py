"""What a check of a problem found, and the lines that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WRONG = "WRONG"
    UNCHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """What was checked, how it came out, the sentence that says so, and the number that was measured."""

    what: str
    verdict: Verdict
    sentence: str
    number: float | None = None


def judged(what: str, wrong: bool, sentence: str, number: float | None = None) -> Finding:
    return Finding(what, Verdict.WRONG if wrong else Verdict.OK, sentence, number)


def any_wrong(findings: Sequence[Finding]) -> bool:
    return any(finding.verdict is Verdict.WRONG for finding in findings)


def report_lines(findings: Sequence[Finding]) -> list[str]:
    """The findings, one line each, and how many are wrong."""
    marks = {Verdict.OK: "ok", Verdict.WRONG: "WRONG", Verdict.UNCHECKED: "-"}
    width = max(len(finding.what) for finding in findings)
    lines = [f"  {marks[f.verdict]:<5}  {f.what:<{width}}  {f.sentence}" for f in findings]
    wrong = sum(finding.verdict is Verdict.WRONG for finding in findings)
    checked = sum(finding.verdict is not Verdict.UNCHECKED for finding in findings)
    return [*lines, f"{checked} checks, {wrong or 'none'} wrong"]
