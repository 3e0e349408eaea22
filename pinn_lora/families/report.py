"""Turn a family's results folder into CSV tables, a figure and one self-contained HTML page. Only files are read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import jinja2

from pinn_lora.cells import ReportError, median, number, short
from pinn_lora.families.equal_error import NEVER, REACHED, equal_error_verdict, reached
from pinn_lora.families.figures import MEASURES, plot_family
from pinn_lora.families.rank_figure import plot_ranks
from pinn_lora.families.rank_report import rank_table, rank_verdict, ranks_of
from pinn_lora.families.rows import WORKS, Row, bound_in, counted, error_in, place_of, told
from pinn_lora.families.shares import share_row, share_verdict
from pinn_lora.figures import embed
from pinn_lora.marks import MARK, bound_of_median, marked, told_error
from pinn_lora.report import write_csv

RECORD = "family_study.json"
ERRORS = ("relative_l2", "zero_shot", "error", "error_min", "error_max", "from_scratch")  # columns of the tables


def is_family(folder: str | Path) -> bool:
    """Whether a folder holds the results of `pinn-lora family`."""
    return (Path(folder) / RECORD).is_file()


def family_report(folder: str | Path) -> Path:
    """Writes report.html, its tables as CSV and its figure as PNG; the page's path."""
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ReportError(f"'{folder}' has no {RECORD}: it holds no results of pinn-lora family.") from None
    if not record["rows"]:
        raise ReportError(f"'{folder}' has no solved member yet: run the same command again to go on.")
    key = "relative_l2" if any(row["relative_l2"] is not None for row in record["rows"]) else "residual"
    seeds, members = seed_rows(record, key), member_rows(record, key)
    tried = record.get("ranks", [])
    ranks = rank_table(tried, record["varied"], key) if tried else []
    for name, rows in {
        "family": _marked(record["rows"]),
        "scratch": _marked(record["scratch"]),
        "seeds": seeds,
        "members": _marked(members),
        "ranks": _marked(ranks),
        "rank_runs": _marked(tried),
    }.items():
        if rows:
            write_csv(folder / f"{name}.csv", rows)
    given = {
        "record": record,
        "ranks": ranks,
        "tried": ranks_of(tried),
        "rank_verdict": rank_verdict(tried, record["varied"], key) if ranks else [],
        "seeds": seeds,
        "members": members,
        "key": key,
        "equal": any(REACHED in row for row in record["scratch"]),
        "measure": MEASURES[key][1],
        **_images(folder, record, key),
    }
    page = _template().render(**given, verdict=verdict(record, seeds, members, key), source=_source(folder))
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _images(folder: Path, record: Row, key: str) -> dict[str, str | None]:
    """The figures, written as PNG and to stand in the page; None for what is not to be drawn."""
    drawn, varied, base = {}, record["varied"], record["bases"][0]
    if len(varied) <= 2:
        drawn["error-parameter"] = plot_family(record["rows"], varied, base=base, scratch=record["scratch"])
    if record.get("ranks"):
        drawn["rank-distance"] = plot_ranks(record["ranks"], varied, base=base, key=key)
    if drawn:
        (folder / "figures").mkdir(exist_ok=True)
    made = {name: embed(figure, folder / "figures" / f"{name}.png", limit=300_000) for name, figure in drawn.items()}
    return {"image": made.get("error-parameter"), "rank_image": made.get("rank-distance")}


def _marked(rows: Sequence[Row]) -> list[Row]:
    """The rows with the names of their errors that are too near what the reference states of its own."""

    def bounds(row: Row) -> dict[str, float | None]:
        errors = [key for key in row if key in ERRORS or key.removeprefix("rank_").isdigit()]
        return dict.fromkeys(errors, row.get("reference_error"))

    return [marked(row, bounds(row)) for row in rows]


def seed_rows(record: Row, key: str) -> list[Row]:
    """One row a seed: accuracy over its members, seconds, and at how many members adapting is as quick as from scratch."""
    rows = []
    for base in record["bases"]:
        own = [row for row in record["rows"] if row["seed"] == base["seed"]]
        made = [row for row in record["scratch"] if row["seed"] == base["seed"]]
        if not own:
            continue
        accuracy = _accuracy(own, base, record["varied"], key)
        rows.append({"seed": base["seed"], **accuracy, **share_row(own, made, base, record["varied"], key)})
    return rows


def _accuracy(own: Sequence[Row], base: Row, varied: Sequence[str], key: str) -> Row:
    """What a seed's row says of errors: over its members, at the worst, and of the base; with what is uncertain of each."""
    worst, errors = max(own, key=lambda row: error_in(row, key)), [error_in(row, key) for row in own]
    bounds = {
        "median": bound_of_median(errors, [bound_in([row], key) for row in own]),
        "worst": bound_in([worst], key),
        "base": bound_in([base], key),
    }
    row: Row = {"members": len(own), "median": median(errors), "worst": error_in(worst, key)}
    row |= {"worst_at": told(worst, varied), "diverged": sum(row["status"] == "DIVERGED" for row in own)}
    row |= {"base": number(base[key]), **{f"{name}_reference_error": bound for name, bound in bounds.items()}}
    return marked(row, bounds)


def member_rows(record: Row, key: str) -> list[Row]:
    """One row a member, medians over the seeds; `to_base` is its error over the base's on its own problem. The seconds from
    scratch to the adapted error are there where histories of runs from scratch are."""
    varied, rows = record["varied"], []
    base = median(number(base[key]) for base in record["bases"])
    told_equal = any(REACHED in row for row in record["scratch"])
    for place in dict.fromkeys(place_of(row, varied) for row in record["rows"]):
        own = [row for row in record["rows"] if place_of(row, varied) == place]
        made = [row for row in record["scratch"] if place_of(row, varied) == place]
        errors = [error_in(row, key) for row in own]
        zero_shot = median(number(row[MEASURES[key][0]]) for row in own)
        rows.append(
            {
                **dict(zip(varied, place, strict=True)),
                "started_from": "; ".join(dict.fromkeys(row["started_from"] for row in own)),
                "points": own[0]["points"],
                "seeds": len(own),
                "zero_shot": zero_shot,
                "error": median(errors),
                "error_min": min(errors),
                "error_max": max(errors),
                "to_base": median(errors) / base,
                "from_scratch": median(error_in(row, key) for row in made),
                "reference_error": bound_in([*own, *made], key),
                "carries_over": max(errors) < WORKS * zero_shot,
                "seconds": median(row["seconds"] for row in own),
                "scratch_seconds": median(row["seconds"] for row in made),
                **({f"scratch_{REACHED}": _or_never(reached(made))} if told_equal else {}),
                "bytes": max(row["bytes"] for row in own),
                "status": ", ".join(dict.fromkeys(row["status"] for row in own)),
            }
        )
    first = varied[0]
    return sorted(rows, key=lambda row: (isinstance(row[first], str), row[first]))


def verdict(record: Row, seeds: Sequence[Row], members: Sequence[Row], key: str) -> list[str]:
    """What the data say, in sentences."""
    varied, measure = record["varied"], MEASURES[key][1]
    worst = max(members, key=lambda row: row["error_max"])
    largest, bounds = max(row["bytes"] for row in record["rows"]), [row["reference_error"] for row in members]

    def typical(name: str) -> str:
        values = [row[name] for row in members]
        return told_error(median(values), bound_of_median(values, bounds))

    said = [
        f"Over {len(members)} members the median of the {measure} (last iterate, median over {counted(len(seeds), 'seed')}) is "
        f"{typical('error')}; the largest of any member and seed is {_told(worst, 'error_max')}, at {told(worst, varied)}. "
        f"The base used unchanged has a median of {typical('zero_shot')}. The largest adapter takes {largest / 1000:.1f} "
        "kB on disk."
    ]
    return [
        *said,
        *share_verdict(seeds, len(record["scratch"])),
        *equal_error_verdict(record),
        *_carried(members, varied),
    ]


def _told(row: Row, name: str) -> str:
    """An error of a member, marked where it is too near its reference's own."""
    return told_error(row[name], row["reference_error"])


def _or_never(seconds: float) -> float | str:
    return NEVER if math.isinf(seconds) else seconds


def _carried(members: Sequence[Row], varied: Sequence[str]) -> list[str]:
    """Where adapting falls behind, and by how much."""
    lost = [row for row in members if not row["carries_over"]]
    said = []
    if lost:
        places = "; ".join(
            f"{told(row, varied)}: {_told(row, 'error_max')} against {_told(row, 'zero_shot')}" for row in lost
        )
        said.append(
            f"LoRA does not carry over to {len(lost)} of {len(members)} members (above a quarter of zero-shot): {places}."
        )
    else:
        said.append("In every member and seed the error falls below a quarter of zero-shot.")
    behind = sorted((row for row in members if row["to_base"] > 1), key=lambda row: -row["to_base"])[:3]
    if behind:
        places = "; ".join(_behind(row, varied) for row in behind)
        said.append(f"Against the base on its own problem the accuracy falls most at {places}.")
    return said


def _behind(row: Row, varied: Sequence[str]) -> str:
    factor = "diverged" if math.isinf(row["to_base"]) else f"{row['to_base']:.3g} times its error"
    scratch = "" if math.isnan(row["from_scratch"]) else f", from scratch {_told(row, 'from_scratch')}"
    return f"{told(row, varied)} ({factor}{scratch})"


def _source(folder: Path) -> str:
    path = folder / "config.toml"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: short(number(value))
    environment.filters["error"] = told_error
    environment.filters["amount"] = _amount
    environment.filters["percent"] = lambda value: "–" if value != value else f"{100 * value:.1f} %"
    environment.globals |= {"told": told, "mark": MARK}
    return environment.get_template("family.html")


def _amount(value: float | str | None) -> str:
    """Three digits; a word as it is, a dash for what is missing."""
    return value if isinstance(value, str) else "–" if value is None or value != value else f"{value:,.3g}"
