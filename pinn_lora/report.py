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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pinn_lora import figures
from pinn_lora.cells import Case, Cell, ReportError, Run, Variant, median, number, short
from pinn_lora.folders import PACKED_RUNS, unpack

__all__ = ["ReportError", "report"]

INSIDE = "a results folder holds study.json, config.toml, cases/ and runs/ with at least one finished run"
COUNTS = ("gradients", "residuals", "jacobians", "solves")
AXES = ("work", "seconds")
Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """A results folder, read. `variants` holds one list a case, best tuned held-out loss first."""

    folder: Path
    study: Row
    config: str
    cases: tuple[Case, ...]
    variants: tuple[tuple[Variant, ...], ...]
    unfinished: int


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def load(folder: Path) -> Results:
    """Read a results folder; ReportError says in one sentence what is missing."""
    if not folder.is_dir():
        raise ReportError(f"'{folder}' is not a folder: {INSIDE}.")
    study = _json(folder / "study.json")
    if not isinstance(study, dict) or not study.get("cases"):
        raise ReportError(f"'{folder}' has no study.json that lists cases: {INSIDE}.")
    unpack(folder / PACKED_RUNS, folder / "runs")
    entries = sorted(path for path in (folder / "runs").glob("*") if path.is_dir())
    found = [(path, _json(path / "run.json")) for path in entries if not path.name.startswith(".")]
    names = [field.name for field in fields(Run) if field.name not in ("folder", "record")]
    runs = [Run(path, data, **{name: data.get(name) for name in names}) for path, data in found if data is not None]
    if not runs:
        raise ReportError(f"'{folder}' has no finished run (a run folder with a run.json): {INSIDE}.")
    cases = tuple(_case(folder, about) for about in study["cases"])
    strangers = {run.case for run in runs} - {case.id for case in cases}
    if strangers:
        raise ReportError(f"'{folder}' has runs of the case '{min(strangers)}', which its study.json does not list.")
    cases = tuple(case for case in cases if case.id in {run.case for run in runs})  # of the others nothing is known yet
    config = folder / "config.toml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    variants = tuple(_variants(case, [run for run in runs if run.case == case.id]) for case in cases)
    return Results(folder, study, text, cases, variants, len(entries) - len(runs))


def _case(folder: Path, about: Row) -> Case:
    title, zero_shot = str(about.get("title") or about["id"]), number(about.get("zero_shot"))
    return Case(about["id"], title, about, zero_shot, folder / "cases" / f"{about['id']}.npz")


def _variants(case: Case, runs: Sequence[Run]) -> tuple[Variant, ...]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.method, run.start, run.step_size or 0.0, run.seed or 0)):
        groups.setdefault((run.method, run.start), []).append(run)
    variants = []
    for group in groups.values():
        cells = []
        steps = sorted({run.step_size for run in group if run.step_size is not None and run.status != "REFUSED"})
        for step in steps:
            cells.append(Cell(step, tuple(run for run in group if run.step_size == step), case.zero_shot))
        variants.append(Variant(case, tuple(group), tuple(cells)))
    return tuple(sorted(variants, key=lambda variant: (not variant.cells, variant.held_out)))


def end(variant: Variant, axis: str) -> float:
    """The largest work or seconds that a tuned run has reached."""
    curves = [run.curve(axis)[0] for run in variant.tuned.runs] if variant.tuned else []
    return max((float(x[-1]) for x in curves if x.size), default=math.nan)


def at(variant: Variant, axis: str, budget: float) -> list[float]:
    return [float(run.at(axis, budget)) for run in variant.tuned.runs] if variant.tuned else []


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


def ratio(a: float, b: float) -> float:
    """a / b where infinite means diverged: nan when both are, or when one is missing."""
    if math.isnan(a) or math.isnan(b) or (math.isinf(a) and math.isinf(b)):
        return math.nan
    return a / b if b else math.inf


def compare(a: Variant, b: Variant) -> Row:
    """Tuned medians of two variants at the end, and at the largest work and seconds that both have reached."""
    seeds = [len(variant.tuned.runs) if variant.tuned else 0 for variant in (a, b)]
    row: Row = {"a": a.label, "b": b.label, "seeds": min(seeds), "ratio_at_end": ratio(a.error, b.error)}
    for axis in ("work", "seconds"):
        budget = min(end(a, axis), end(b, axis)) if min(seeds) else math.nan
        left, right = (median(at(variant, axis, budget)) for variant in (a, b))
        row |= {axis: budget, f"a_at_{axis}": left, f"b_at_{axis}": right, f"ratio_at_{axis}": ratio(left, right)}
    refused = [variant for variant in (a, b) if not variant.tuned]
    return row | {"note": "; ".join(f"{variant.label} refused: {variant.runs[0].message}" for variant in refused)}


def _same(a: Run, b: Run, *names: str) -> bool:
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _implicit_pair(a: Run, b: Run) -> bool:
    flows = not a.optimizer and not b.optimizer
    return flows and a.implicit and not b.implicit and _same(a, b, "trains", "metric", "lift", "start")


def _mass_pair(a: Run, b: Run) -> bool:
    masses = (a.mass_name, b.mass_name) == ("balanced", "identity")
    alike = _same(a, b, "trains", "metric", "implicit", "adaptive", "integrator", "start")
    return masses and alike and not a.optimizer and not b.optimizer


def _weights_pair(a: Run, b: Run) -> bool:
    factors = (a.trains, b.trains != "factors") == ("factors", True)
    plain = bool(a.optimizer) or a.mass_name == "identity"
    return factors and plain and _same(a, b, "optimizer", "integrator", "implicit", "adaptive")


EFFECTS: tuple[tuple[str, str, str, Callable[[Run, Run], bool]], ...] = (
    ("implicit or explicit", "implicit", "explicit", _implicit_pair),
    ("balanced mass or identity", "balanced mass", "identity mass", _mass_pair),
    ("factors or all weights", "factors", "all weights", _weights_pair),
)


def effects(variants: Sequence[Variant]) -> list[Row]:
    """Every pair of variants that differs in one of the three effects only, found from the fields of their runs."""
    rows = []
    for name, left, right, pairs in EFFECTS:
        for a, b in itertools.permutations(variants, 2):
            if pairs(a.runs[0], b.runs[0]):
                rows.append({"case": a.case.id, "effect": name, "left": left, "right": right} | compare(a, b))
    return rows


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
    row |= {"runs": len(variant.runs), "steps_tried": len(tried), "steps_working": sum(c.works for c in variant.cells)}
    row |= {"fewest_seeds": min((len(other.runs) for other in variant.cells), default=0)}
    row |= {"width_decades": decades, "works_from": low, "works_to": high}
    row |= {"width_is_a_bound": low in tried[:1] or high in tried[-1:]}
    found = [spikes(run) for run in runs]
    row |= {"spikes": median(count for count, _ in found)}
    row |= {"largest_spike": max((ratio for _, ratio in found if not math.isnan(ratio)), default=math.nan)}
    row |= {"drift": median(float(run.at("step", math.inf, "drift")) for run in runs)}
    row |= {key: typical(key) for key in ("steps", "accepted", "work", "seconds", "unit_seconds")}
    row |= {key: median(number((run.record.get("counts") or {}).get(key)) for run in runs) for key in COUNTS}
    return row | {"peak_memory_mib": typical("peak_memory_mib")}


def step_rows(variants: Sequence[Variant]) -> list[Row]:
    rows = []
    for variant in variants:
        for cell in variant.cells:
            row = {"case": variant.case.id, "method": variant.runs[0].method, "start": variant.runs[0].start}
            row |= {"step_size": cell.step_size, "seeds": len(cell.runs), "held_out_loss": cell.held_out}
            row |= {"relative_l2": median(cell.errors), "relative_l2_min": min(cell.errors)}
            row |= {"relative_l2_max": max(cell.errors), "diverged_share": cell.diverged / len(cell.runs)}
            rows.append(row | {"works": cell.works, "tuned": cell is variant.tuned})
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
    return {key: value for key, value in run.record.items() if key != "counts"} | dict(run.record.get("counts") or {})


def contests(variants: Sequence[Variant]) -> list[Row]:
    """The best implicit variant against the best other one (both by held-out loss), for either trainable set."""
    rows = []
    for trains in ("factors", "all weights"):
        group = [variant for variant in variants if variant.runs[0].trains == trains and variant.tuned]
        implicit, other = ([v for v in group if v.runs[0].implicit is kind] for kind in (True, False))
        if implicit and other:
            rows.append({"case": group[0].case.title, "trains": trains} | compare(implicit[0], other[0]))
    return rows


def verdict(results: Results) -> list[str]:
    """What the data say, in sentences: the winners, whether the implicit methods won, and what went wrong."""
    said = []
    for words, key in (("held-out loss", "held_out"), ("relative L2 error", "error")):
        ranked = [[v for v in group if math.isfinite(getattr(v, key))] for group in results.variants]
        best = Counter(min(group, key=lambda v: getattr(v, key)).label for group in ranked if group)
        wins = ", ".join(f"{label} (in {count} of {len(ranked)})" for label, count in best.most_common())
        said.append(f"The lowest {words} at tuned step sizes, case by case: {wins or 'none, no variant ended'}.")
    for trains in ("factors", "all weights"):
        rows = [row for group in results.variants for row in contests(group) if row["trains"] == trains]
        said += _contest_words(trains, rows) if rows else []
    below = [v.error < v.case.zero_shot for group in results.variants for v in group if v.tuned]
    share = f"{below.count(False)} of {len(below)} tuned variants end no better than the base used unchanged."
    every = "Every tuned variant ends more accurate than the base used unchanged." if below else "No variant was run."
    said.append(share if False in below else every)
    runs = Counter(run.status for group in results.variants for variant in group for run in variant.runs)
    return [*said, f"Of {runs.total()} finished runs {runs['DIVERGED']} diverged and {runs['REFUSED']} were refused."]


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
    tables: dict[str, list[Row]] = {"runs": [run_row(run) for run in everything]}
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
            tables[name] = tables.get(name, []) + rows
        drawn = figures.draw(case, variants, look)
        images = {
            name: figures.embed(fig, pictures / f"{case.id}-{name}.png", limit=limit) for name, fig in drawn.items()
        }
        runs = [run for variant in variants for run in variant.runs]
        best = min(variants, key=lambda v: math.inf if math.isnan(v.error) else v.error, default=None)
        sections.append({"case": case, "rungs": rungs, "images": images, "runs": runs, "best": best, **parts})
    for name, rows in tables.items():
        write_csv(results.folder / f"{name}.csv", rows)
    path = results.folder / "report.html"
    path.write_text(_html(results, sections), encoding="utf-8")
    return path


def _html(results: Results, sections: list[Row]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    options: Row = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, undefined=jinja2.ChainableUndefined, **options)
    environment.filters["number"] = lambda value: short(number(value))
    environment.filters["step"] = lambda value: short(number(value)).replace(".0e", "e").removesuffix("e0")
    page = environment.get_template("report.html")
    battles = [row for group in results.variants for row in contests(group)]
    return page.render(
        results=results,
        study=results.study,
        made=sum(len(v.runs) for group in results.variants for v in group),
        sections=sections,
        verdict=verdict(results),
        battles=battles,
        effects=[name for name, *_ in EFFECTS],
    )
