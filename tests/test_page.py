"""The benchmarks' page: the numbers of the files stand in it, and it asks for nothing over the network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from benchmark import FOLDER, load
from matplotlib.figure import Figure

bench = load("page")
REFERENCE = FOLDER.parent / "results" / "reference" / "benchmarks"


class Cells(HTMLParser):
    """The tables' cells by row, the headings, and whatever an element would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows, self.titles, self.fetched, self._open = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._open = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "h2":
            self.titles.append("")

    def handle_data(self, data):
        if self._open in ("td", "th"):
            self.rows[-1][-1] += data.strip()
        elif self._open == "h2":
            self.titles[-1] += data.strip()


@pytest.fixture
def folder(tmp_path) -> Path:
    rows = [
        {"network": "3 x 24", "unknowns": 12737, "milliseconds": {"plain": 1.25, "compiled": 0.5}, "missed": []},
        {"network": "4 x 64 <b>", "unknowns": 7, "milliseconds": {"plain": 123456.0}, "fits": True, "ratio": None},
    ]
    steps = {
        "machine": {"torch": "2.99", "threads": 1},
        "repeats": 3,
        "rows": rows,
        "exponents": {"rank": {"step": 1.5}},
    }
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    (tmp_path / "another.json").write_text(json.dumps({"rows": [{"trace": list(range(400))}]}))
    Figure().savefig(tmp_path / "steps.png")
    return tmp_path


def test_the_numbers_of_the_files_stand_in_the_page(folder):
    found = Cells(bench.write_page(folder).read_text())
    assert found.titles[:2] == ["another", "steps"]
    head = next(row for row in found.rows if "network" in row)
    place = found.rows.index(head)
    first, second = (dict(zip(head, row, strict=True)) for row in found.rows[place + 1 : place + 3])
    assert first["milliseconds: plain"] == "1.25" and first["milliseconds: compiled"] == "0.5"
    assert first["unknowns"] == "12,737" and first["fits"] == "–"  # a column of another row
    assert second["network"] == "4 x 64 <b>" and second["ratio"] == "–" and second["fits"] == "yes"
    assert ["rank", "1.5"] in found.rows and ["400 entries"] in found.rows
    assert float(second["milliseconds: plain"]) == pytest.approx(123456.0, rel=1e-3)


def test_the_page_asks_for_nothing_and_says_how_each_was_measured(folder):
    page = bench.write_page(folder).read_text()
    found = Cells(page)
    assert "http" not in page and "@import" not in page and "url(" not in page
    outside = [one for one in found.fetched if not one.startswith("#")]
    assert len(outside) == 1 and outside[0].startswith("data:image/png;base64,")  # the one figure
    assert "tbody tr:nth-child(even)" in page  # the reports' style sheet
    assert "machine: torch 2.99, threads 1" in page and "repeats: 3" in page
    assert "What a step of a factor flow costs" in page  # what steps.py says of itself
    missing = page.partition("Not here")[2]
    assert "scaling" in missing and "steps" not in missing


def test_the_committed_files_make_a_page_with_every_row(tmp_path):
    """A table row for each row of each file: read from what is committed, whatever that is."""
    for path in REFERENCE.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = Cells(bench.write_page(tmp_path).read_text())
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert records
    lists = [value for record in records for value in record.values() if isinstance(value, list) and value]
    tables = [value for value in lists if all(isinstance(row, dict) for row in value)]
    assert len(found.rows) >= sum(len(rows) + 1 for rows in tables) > len(tables)


def test_a_folder_without_files_and_a_broken_file_are_one_sentence(tmp_path, capsys):
    for text, said in ((None, "has no JSON file of a benchmark"), ("{", "is not JSON"), ("[1]", "a JSON object")):
        if text is not None:
            (tmp_path / "steps.json").write_text(text)
        with pytest.raises(SystemExit) as ended:
            bench.main(["--folder", str(tmp_path)])
        assert ended.value.code == 2 and said in capsys.readouterr().err
        assert not (tmp_path / "index.html").exists()


def test_every_benchmark_is_known_to_the_page():
    """Those that run.py runs, and no other file."""
    run = load("run")
    assert sorted([*run.MINUTES, *run.NAMED]) == bench.benchmarks()
    assert all(re.fullmatch(r"[a-z_]+", name) for name in bench.benchmarks())
