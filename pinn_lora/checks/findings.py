"""What a check of a problem found, and the lines that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Three answers, and UNCHECKED for what was not asked."""

    OK = "ok"
    WRONG = "WRONG"
    UNKNOWN = "cannot tell"
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
    """The findings, one line each, and how many are wrong and how many cannot be told."""
    marks = {Verdict.OK: "ok", Verdict.WRONG: "WRONG", Verdict.UNKNOWN: "?", Verdict.UNCHECKED: "-"}
    width = max(len(finding.what) for finding in findings)
    says = {f: f"cannot tell: {f.sentence}" if f.verdict is Verdict.UNKNOWN else f.sentence for f in findings}
    lines = [f"  {marks[f.verdict]:<5}  {f.what:<{width}}  {says[f]}" for f in findings]
    verdicts = [finding.verdict for finding in findings]
    checked, wrong = len(verdicts) - verdicts.count(Verdict.UNCHECKED), verdicts.count(Verdict.WRONG)
    unknown = verdicts.count(Verdict.UNKNOWN)
    return [*lines, f"{checked} checks, {wrong or 'none'} wrong" + (f", {unknown} cannot tell" if unknown else "")]
