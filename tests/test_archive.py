"""Studies kept small: the same report from the archive, and the study goes on from it."""

import json
import shutil
import zipfile

import pytest
from tiny_study import TINY, run, runs_of

from pinn_lora.archive import archive
from pinn_lora.cells import ReportError
from pinn_lora.report import report


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = run(tmp_path_factory.mktemp("archive") / "study")
    report(folder)
    return folder


@pytest.fixture
def kept(study, tmp_path):
    return archive(study, tmp_path / "kept")


def tables(folder):
    return {path.name: path.read_text() for path in sorted(folder.glob("*.csv"))}


def members(folder):
    with zipfile.ZipFile(folder / "runs.zip") as held:
        return held.namelist()


def test_the_report_of_an_archive_is_the_same(study, kept):
    shown, drawn = (kept / "report.html").read_text(), tables(kept)
    assert not (kept / "runs").exists()
    (kept / "report.html").unlink()
    report(kept)
    assert tables(kept) == drawn == tables(study)
    assert (kept / "report.html").read_text() == shown


def test_an_archive_has_every_history_and_only_the_fields_that_are_drawn(study, kept):
    held = members(kept)
    assert {name for name in held if name.endswith("/history.csv")} == {
        f"{path.parent.name}/history.csv" for path in study.glob("runs/*/history.csv")
    }
    fields = [name for name in held if name.endswith(".npz")]
    assert 0 < len(fields) <= 3 < len(list(study.glob("runs/*/field.npz")))


def test_a_study_goes_on_from_its_archive(study, kept):
    """What is missing is run, also that of one more seed, and the others are kept."""
    [first, *others] = sorted(runs_of(study))
    with zipfile.ZipFile(kept / "runs.zip") as old, zipfile.ZipFile(kept / "fewer.zip", "w") as new:
        for name in old.namelist():
            if not name.startswith(first):
                new.writestr(name, old.read(name))
    (kept / "fewer.zip").replace(kept / "runs.zip")
    run(kept, TINY.replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    again = runs_of(kept)
    assert set(again) > {first, *others} and len(again) == 12
    assert all(again[name] == runs_of(study)[name] for name in others)
    assert again[first]["relative_l2"] == runs_of(study)[first]["relative_l2"]


def test_what_cannot_be_archived_is_refused(study, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    with pytest.raises(ReportError, match="exists and is not empty; nothing was written"):
        archive(study, tmp_path / "full")
    with pytest.raises(ReportError, match="is not a folder"):
        archive(tmp_path / "nothing", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_archive_is_said_in_a_sentence(kept):
    (kept / "runs.zip").write_bytes(b"PK")
    with pytest.raises(OSError, match=r"runs.zip is damaged \(.*\); put it back as it was"):
        report(kept)


def test_unfinished_runs_stay_out(study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    (folder / "runs" / ".partial-x").mkdir()
    (folder / "runs" / ".partial-x" / "run.json").write_text(json.dumps({"id": "x"}))
    assert not any("partial" in name for name in members(archive(folder, tmp_path / "kept")))
