"""Turn a results folder into CSV tables, figures and one self-contained HTML page.

Only files are read: nothing here trains, and nothing here needs torch. What a run, a cell and a variant are is said in
`cells`; here they are read, compared and written down.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pinn_lora import figures
from pinn_lora.cells import (
    Case,
    Cell,
    ReportError,
    Row,
    Run,
    Variant,
    at,
    end,
    in_common_units,
    largest,
    median,
    number,
    short,
)
from pinn_lora.effects import EFFECTS, compare, effects, method_of
from pinn_lora.folders import PACKED_RUNS, read_json, read_run, unpack
from pinn_lora.marks import MARK, marked, near, told_error

__all__ = ["ReportError", "report"]

INSIDE = "a results folder holds study.json, config.toml, cases/ and runs/ with at least one finished run"
COUNTS = ("gradients", "residuals", "jacobians", "solves")
AXES = ("work", "seconds")
ERRORS = ("relative_l2", "zero_shot", "a_at_", "b_at_")  # how columns of relative L2 errors begin


@dataclass(frozen=True)
class Results:
    """A results folder, read. `variants` holds one list a case, best tuned held-out loss first."""

    folder: Path
    study: Row
    config: str
    cases: tuple[Case, ...]
    variants: tuple[tuple[Variant, ...], ...]
    unfinished: int


def load(folder: Path) -> Results:
    """Read a results folder; ReportError says in one sentence what is missing."""
    if not folder.is_dir():
        raise ReportError(f"'{folder}' is not a folder: {INSIDE}.")
    study = read_json(folder / "study.json")
    if study is None or not study.get("cases"):
        raise ReportError(f"'{folder}' has no study.json that lists cases: {INSIDE}.")
    unpack(folder / PACKED_RUNS, folder / "runs")
    entries = sorted(path for path in (folder / "runs").glob("*") if path.is_dir())
    found = [(path, _run(path)) for path in entries if not path.name.startswith(".")]
    runs = in_common_units([Run.read(path, data) for path, data in found if data is not None])
    if not runs:
        raise ReportError(f"'{folder}' has no finished run (a run folder with a run.json): {INSIDE}.")
    cases = tuple(_case(folder, about, runs) for about in study["cases"])
    strangers = {run.case for run in runs} - {case.id for case in cases}
    if strangers:
        raise ReportError(f"'{folder}' has runs of the case '{min(strangers)}', which its study.json does not list.")
    cases = tuple(case for case in cases if case.id in {run.case for run in runs})  # of the others nothing is known yet
    config = folder / "config.toml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    variants = tuple(
        _variants(case, [run for run in runs if run.case == case.id], tuned_by=_tuned_by(study, case)) for case in cases
    )
    return Results(folder, study, text, cases, variants, len(entries) - len(runs))


def _run(place: Path) -> Any:
    """What a run's folder says; None where the run has not ended. ReportError where it says nothing that can be read."""
    if (run := read_run(place)) is None and (place / "run.json").exists():
        raise ReportError(
            f"'{place / 'run.json'}' is damaged or of another run; run the study again, which makes it anew, "
            "or remove its folder."
        )
    return run


def _case(folder: Path, about: Row, runs: Sequence[Run]) -> Case:
    """The case, and what its reference states of its own error: to its runs, where an older version described it."""
    title, zero_shot = str(about.get("title") or about["id"]), number(about.get("zero_shot"))
    told = [about, *(run.record for run in runs if run.case == about["id"])]
    bound = largest([one.get("reference_error") for one in told])
    return Case(about["id"], title, about, zero_shot, folder / "cases" / f"{about['id']}.npz", bound)


def _tuned_by(study: Row, case: Case) -> int | None:
    """The study's first seed for a case that is tuned with it; the number of a case stands before its name."""
    planned, number = (study.get("config") or {}).get("case") or [], case.id.partition("-")[0]
    about = planned[int(number) - 1] if number.isdigit() and 1 <= int(number) <= len(planned) else {}
    return None if about.get("full_scan", True) else study["seeds"][0]


def _variants(case: Case, runs: Sequence[Run], *, tuned_by: int | None) -> tuple[Variant, ...]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.method, run.start, run.step_size or 0.0, run.seed or 0)):
        groups.setdefault((run.method, run.start), []).append(run)
    variants = []
    for group in groups.values():
        cells = []
        steps = sorted({run.step_size for run in group if run.step_size is not None and not run.refused})
        for step in steps:
            cells.append(Cell(step, tuple(run for run in group if run.step_size == step), case.zero_shot))
        variants.append(Variant(case, tuple(group), tuple(cells), tuned_by))
    return tuple(sorted(variants, key=lambda variant: (not variant.cells, variant.held_out)))


def width(variant: Variant) -> tuple[float, float, float]:
    """Decades, first and last step of the longest contiguous stretch of step sizes that work; nan if none does."""
    best = (math.nan, math.nan, math.nan)
    for works, stretch in itertools.groupby(variant.cells, key=lambda cell: cell.works):
        steps = [cell.step_size for cell in stretch]
        decades = math.log10(steps[-1] / steps[0])
        if works and not decades <= best[0]:
            best = (decades, steps[0], steps[-1])
    return best


def spikes(run: Run) -> tuple[int, float]:
    """How often the held-out loss exceeds 10 times its smallest value before, and the largest such ratio."""
    loss = run.history.get("held_out_loss", np.empty(0))
    loss = loss[~np.isnan(loss)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = loss[1:] / np.minimum.accumulate(loss)[:-1]
    ratios = ratios[~np.isnan(ratios)]
    return int(np.sum(ratios > 10)), float(ratios.max()) if ratios.size else math.nan


def ladder(variants: Sequence[Variant], axis: str) -> list[float]:
    """Budgets 1, 3, 10, 30 ... (and 0.3, 0.1 ...) between the first and the last record of the tuned runs."""
    curves = [run.curve(axis)[0] for variant in variants if variant.tuned for run in variant.tuned.runs]
    records = np.concatenate([np.empty(0), *curves])
    records = records[(records > 0) & np.isfinite(records)]
    if not records.size:
        return []
    low, high = float(records.min()), float(records.max())
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rungs = [float(f"{digit}e{power}") for power in powers for digit in (1, 3)]
    return [rung for rung in rungs if low <= rung <= high] or [high]


def chosen(variants: Sequence[Variant], axis: str) -> list[float]:
    """Three rungs for the summary: the last that every variant reached, the last of all, and one between."""
    rungs = ladder(variants, axis)
    if not rungs:
        return []
    common = min((end(variant, axis) for variant in variants if math.isfinite(variant.held_out)), default=math.inf)
    low = max(sum(rung <= common for rung in rungs) - 1, 0)
    high = len(rungs) - 1
    return [rungs[index] for index in sorted({low, (low + high) // 2, high})]


def summary_row(variant: Variant, rungs: dict[str, list[float]]) -> Row:
    """One line of the summary: the tuned cell of a variant, and what its whole grid of step sizes says."""
    first, cell = variant.runs[0], variant.tuned
    runs = cell.runs if cell else ()

    def typical(key: str) -> float:
        return median(number(run.record.get(key)) for run in runs)

    decades, low, high = width(variant)
    tried = [other.step_size for other in variant.cells]
    row: Row = {"case": variant.case.id, "method": first.method, "start": first.start, "trains": first.trains}
    row |= {"adaptive": first.adaptive, "unknowns": first.record.get("unknowns"), "zero_shot": variant.case.zero_shot}
    row |= {"refused": "" if cell else first.message or "refused"}
    row |= {"tuned_step_size": cell.step_size if cell else math.nan, "tuned_at_edge": variant.at_edge}
    row |= {"seeds": len(runs), "held_out_loss": cell.held_out if cell else math.nan, "relative_l2": variant.error}
    row |= {"relative_l2_min": min(cell.errors) if cell else math.nan}
    row |= {"relative_l2_max": max(cell.errors) if cell else math.nan}
    for axis, index in itertools.product(AXES, range(3)):
        budget = rungs[axis][index] if index < len(rungs[axis]) else math.nan
        errors, key = at(variant, axis, budget), f"relative_l2_at_{axis}_{index + 1}"
        row |= {f"{axis}_{index + 1}": budget, key: median(errors)}
        row |= {f"{key}_min": min(errors, default=math.nan), f"{key}_max": max(errors, default=math.nan)}
    row |= {"diverged_tuned": cell.diverged if cell else 0, "diverged": sum(other.diverged for other in variant.cells)}
    row |= {"diverged_share": row["diverged"] / len(variant.runs)}
    row |= {"runs": len(variant.runs), "steps_tried": len(tried), "steps_working": _working(variant)}
    row |= {"fewest_seeds": min((len(other.runs) for other in variant.cells), default=0)}
    row |= {"width_decades": decades, "works_from": low, "works_to": high}
    row |= {"width_is_a_bound": low in tried[:1] or high in tried[-1:]}
    found = [spikes(run) for run in runs]
    row |= {"spikes": median(count for count, _ in found)}
    row |= {"largest_spike": max((ratio for _, ratio in found if not math.isnan(ratio)), default=math.nan)}
    row |= {"drift": median(float(run.at("step", math.inf, "drift")) for run in runs)}
    row |= {key: typical(key) for key in ("steps", "accepted", "work", "seconds")}
    row |= {"unit_seconds": typical("unit"), "clocks": cell.clocks if cell else ""}
    row |= {key: median(number((run.record.get("counts") or {}).get(key)) for run in runs) for key in COUNTS}
    return row | {"peak_memory_mib": typical("peak_memory_mib")}


def _working(variant: Variant) -> float:
    """How many step sizes work: nan where no errors are known."""
    return sum(cell.works for cell in variant.cells) if variant.case.measured else math.nan


def step_rows(variants: Sequence[Variant]) -> list[Row]:
    rows = []
    for variant in variants:
        for cell in variant.cells:
            row = {"case": variant.case.id, "method": variant.runs[0].method, "start": variant.runs[0].start}
            row |= {"step_size": cell.step_size, "seeds": len(cell.runs), "held_out_loss": cell.held_out}
            row |= {"relative_l2": median(cell.errors), "relative_l2_min": min(cell.errors)}
            row |= {"relative_l2_max": max(cell.errors), "diverged_share": cell.diverged / len(cell.runs)}
            rows.append(row | {"works": cell.works if variant.case.measured else None, "tuned": cell is variant.tuned})
    return rows


def ladder_rows(variants: Sequence[Variant]) -> list[Row]:
    rows = []
    for axis in AXES:
        for budget, variant in itertools.product(ladder(variants, axis), [v for v in variants if v.tuned]):
            errors = at(variant, axis, budget)
            row = {"case": variant.case.id, "method": variant.runs[0].method, "start": variant.runs[0].start}
            row |= {"axis": axis, "budget": budget, "relative_l2": median(errors), "seeds": len(errors)}
            rows.append(row | {"relative_l2_min": min(errors), "relative_l2_max": max(errors)})
    return rows


def run_row(run: Run) -> Row:
    """What a run says, the counts a column each and every other group of entries in one."""
    counts = run.record.get("counts") or {}
    plain = {key: value for key, value in run.record.items() if key != "counts"}
    return {
        key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in plain.items()
    } | counts


def made_by(runs: Sequence[Run]) -> list[Row]:
    """By what the runs were made: every set of source, versions, machine, threads and clock that they name, with how many runs
    name it, the largest first. Runs of older versions name no source."""
    told = ("source", "versions", "machine", "threads", "clock")
    sets = [json.dumps({key: run.record.get(key) for key in told}, sort_keys=True) for run in runs if not run.refused]
    return [json.loads(one) | {"runs": count} for one, count in Counter(sets).most_common()]


def contests(variants: Sequence[Variant]) -> list[Row]:
    """The best implicit variant against the best other one (both by held-out loss), for either trainable set; none where no
    errors are known."""
    rows = []
    for trains in ("factors", "all weights"):
        group = [v for v in variants if v.runs[0].trains == trains and v.tuned and v.case.measured]
        implicit, other = ([v for v in group if v.runs[0].implicit is kind] for kind in (True, False))
        if implicit and other:
            row = {"case": group[0].case.title, "trains": trains, "bound": group[0].case.bound}
            rows.append(row | compare(implicit[0], other[0]))
    return rows


def verdict(results: Results) -> list[str]:
    """What the data say, in sentences: the winners, whether the implicit methods won, and what went wrong."""
    measured = [group for group in results.variants if group[0].case.measured]
    said = [_winners("held-out loss", "held_out", results.variants)]
    if unknown := len(results.variants) - len(measured):
        said.append(f"{unknown} of {len(results.variants)} cases have no reference, so none of their errors is known.")
    said += [_winners("relative L2 error", "error", measured)] if measured else []
    for trains in ("factors", "all weights"):
        rows = [row for group in measured for row in contests(group) if row["trains"] == trains]
        said += _contest_words(trains, rows) if rows else []
    below = [v.error < v.case.zero_shot for group in measured for v in group if v.tuned]
    share = f"{below.count(False)} of {len(below)} tuned variants end no better than the base used unchanged."
    every = ["Every tuned variant ends more accurate than the base used unchanged."] if below else []
    said += [share] if False in below else every
    said += [] if any(v.tuned for group in results.variants for v in group) else ["No variant was run."]
    runs = Counter(run.status for group in results.variants for variant in group for run in variant.runs)
    return [*said, f"Of {runs.total()} finished runs {runs['DIVERGED']} diverged and {runs['REFUSED']} were refused."]


def _winners(words: str, key: str, groups: Sequence[Sequence[Variant]]) -> str:
    ranked = [[v for v in group if math.isfinite(getattr(v, key))] for group in groups]
    best = Counter(min(group, key=lambda v: getattr(v, key)).label for group in ranked if group)
    wins = ", ".join(f"{label} (in {count} of {len(ranked)})" for label, count in best.most_common())
    return f"The lowest {words} at tuned step sizes, case by case: {wins or 'none, no variant ended'}."


def _contest_words(trains: str, rows: Sequence[Row]) -> list[str]:
    places = {"end": "at the end of the runs", "work": "at equal work", "seconds": "at equal seconds"}
    won = {key: sum(row[f"ratio_at_{key}"] < 1 for row in rows) for key in places}
    lost = {key: [row["case"] for row in rows if row[f"ratio_at_{key}"] > 1] for key in places}
    score = ", ".join(f"{count} of {len(rows)} cases {places[key]}" for key, count in won.items())
    said = (
        f"Among methods that train {trains}, the best implicit variant is more accurate than the best other in {score}."
    )
    if all(count == len(rows) for count in won.values()):
        return [said, "Here the implicit methods won every comparison."]
    if all(len(names) == len(rows) for names in lost.values()):
        return [said, "Here the implicit methods lost every comparison."]
    losses = "; ".join(f"{places[key]} in {', '.join(names)}" for key, names in lost.items() if names)
    return [said, f"Here the implicit methods lost {losses}." if losses else "Here the implicit methods lost none."]


def _with_bound(row: Row, bound: float) -> Row:
    """The row of a table with what its reference may err by, and which of its errors are too near that."""
    errors = [key for key in row if key.startswith(ERRORS)]
    return marked(row, dict.fromkeys(errors, bound)) | {"reference_error": bound}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value is None or value != value else value for key, value in row.items()})


def report(folder: Path) -> Path:
    """Write report.html, its tables as CSV and its figures as PNG into a results folder; return the page's path."""
    results = load(Path(folder))
    everything = [run for group in results.variants for variant in group for run in variant.runs]
    look = figures.looks(everything)
    pictures = results.folder / "figures"
    pictures.mkdir(exist_ok=True)
    limit = 300_000 // len(results.cases)
    tables: dict[str, list[Row]] = {"runs": []}
    sections = []
    for case, variants in zip(results.cases, results.variants, strict=True):
        rungs = {axis: chosen(variants, axis) for axis in AXES}
        parts = {
            "summary": [summary_row(variant, rungs) for variant in variants],
            "steps": step_rows(variants),
            "effects": effects(variants),
            "ladder": ladder_rows(variants),
        }
        for name, rows in parts.items():
            tables[name] = tables.get(name, []) + [_with_bound(row, case.bound) for row in rows]
        drawn = figures.draw(case, variants, look)
        images = {
            name: figures.embed(fig, pictures / f"{case.id}-{name}.png", limit=limit) for name, fig in drawn.items()
        }
        runs = [run for variant in variants for run in variant.runs]
        tables["runs"] += [_with_bound(run_row(run), case.bound) for run in runs]
        best = min(variants, key=lambda v: math.inf if math.isnan(v.error) else v.error, default=None)
        sections.append({"case": case, "rungs": rungs, "images": images, "runs": runs, "best": best, **parts})
    for name, rows in tables.items():
        if rows:
            write_csv(results.folder / f"{name}.csv", rows)
        else:  # without rows nobody knows the columns
            (results.folder / f"{name}.csv").unlink(missing_ok=True)
    path = results.folder / "report.html"
    path.write_text(_html(results, sections), encoding="utf-8")
    return path


def _html(results: Results, sections: list[Row]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    options: Row = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, undefined=jinja2.ChainableUndefined, **options)
    environment.filters |= {"number": lambda value: short(number(value)), "error": told_error}
    environment.globals |= {"mark": MARK, "near": near}
    environment.filters["step"] = lambda value: short(number(value)).replace(".0e", "e").removesuffix("e0")
    page = environment.get_template("report.html")
    battles = [row for group in results.variants for row in contests(group)]
    variants = [variant for group in results.variants for variant in group]
    runs = [run for variant in variants for run in variant.runs]
    return page.render(
        results=results,
        study=results.study,
        made=len(runs),
        left_over=sum(variant.left_over for variant in variants),
        silent=sum(method_of(variant) is None for variant in variants),
        made_by=made_by(runs),
        sections=sections,
        verdict=verdict(results),
        battles=battles,
        effects=EFFECTS,
    )
