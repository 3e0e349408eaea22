"""The report of a family: its numbers by hand, what it says of failures, and what it refuses."""

import csv
import json
import math

import pytest

from pinn_lora.cells import ReportError
from pinn_lora.families.equal_error import equal_error_verdict
from pinn_lora.families.report import family_report, is_family, member_rows, seed_rows, verdict
from pinn_lora.marks import MARK


def row(seed, nu, error, *, status="COMPLETED", seconds=4.0, zero_shot=0.1):
    told = {"started_from": "base", "points": 3000, "zero_shot_residual": 1.0, "residual": 0.01, "bytes": 4000}
    return {
        "seed": seed,
        "nu": nu,
        "relative_l2": error,
        "zero_shot": zero_shot,
        "status": status,
        "seconds": seconds,
        **told,
    }


def pretrained(seed, nu, error, seconds):
    told = {"residual": 1e-3, "status": "COMPLETED", "points": 3000}
    return {"seed": seed, "nu": nu, "relative_l2": error, "seconds": seconds, **told}


@pytest.fixture
def record():
    return {
        "config": {"title": "A family", "description": "Of two.", "seeds": [0, 1]},
        "command": "pinn-lora family x.toml",
        "started": "then",
        "finished": "now",
        "versions": {"torch": "2"},
        "machine": {"processor": "p", "cores": 2, "threads": 1, "jobs": 1},
        "base": "Burgers(nu=0.01)",
        "varied": ["nu"],
        "planned": {"members": 4, "scratch": 2},
        "bases": [pretrained(0, 0.01, 1e-4, 50.0), pretrained(1, 0.01, 1e-4, 70.0)],
        "rows": [
            row(0, 0.02, 1e-4),
            row(0, 0.005, 9e-4, seconds=6.0),
            row(1, 0.02, 3e-4),
            row(1, 0.005, 5e-4, seconds=8.0),
        ],
        "scratch": [pretrained(0, 0.005, 2e-4, 40.0), pretrained(1, 0.005, 4e-4, 60.0)],
    }


def write(record, folder):
    (folder / "family_study.json").write_text(json.dumps(record))
    return folder


def test_seconds_and_break_even_of_a_seed(record):
    first, second = seed_rows(record, "relative_l2")
    assert (first["family_seconds"], first["scratch_seconds"]) == (10.0, 40.0)
    assert first["share"] == pytest.approx(10 / 80) and first["share_with_base"] == pytest.approx(60 / 80)
    assert first["break_even"] == 2  # 50 + 5 n <= 40 n from 10/7 on
    assert second["break_even"] == 2  # 70 + 6 n <= 60 n from 70/54 on
    assert (first["median"], first["worst"], first["worst_at"]) == (pytest.approx(5e-4), 9e-4, "nu = 0.005")


@pytest.mark.parametrize("base_seconds", [1.0, 35.0, 50.0, 70.5, 700.0])
def test_break_even_is_the_smallest_family_that_is_no_slower(record, base_seconds):
    record["bases"][0]["seconds"] = base_seconds
    found = seed_rows(record, "relative_l2")[0]["break_even"]
    slower = [n for n in range(1, 100) if base_seconds + 5.0 * n > 40.0 * n]
    assert found == len(slower) + 1


def test_adapting_that_is_slower_than_from_scratch_never_breaks_even(record):
    for made in record["scratch"]:
        made["seconds"] = 3.0
    assert [row["break_even"] for row in seed_rows(record, "relative_l2")] == [None, None]
    assert "as quick never" in " ".join(verdict(record, *tables(record)))


def tables(record, key="relative_l2"):
    return seed_rows(record, key), member_rows(record, key), key


def test_members_have_medians_and_how_much_is_lost_to_the_base(record):
    thin, wide = member_rows(record, "relative_l2")
    assert (thin["nu"], wide["nu"]) == (0.005, 0.02)
    assert thin["error"] == pytest.approx(7e-4) and (thin["error_min"], thin["error_max"]) == (5e-4, 9e-4)
    assert thin["to_base"] == pytest.approx(7.0) and thin["from_scratch"] == pytest.approx(3e-4)
    assert math.isnan(wide["from_scratch"]) and wide["carries_over"] and thin["seconds"] == 7.0
    said = " ".join(verdict(record, *tables(record)))
    assert "is 4.5e-4; the largest of any member and seed is 9.0e-4, at nu = 0.005" in said
    assert "In every member and seed the error falls below a quarter of zero-shot" in said
    assert "falls most at nu = 0.005 (7 times its error, from scratch 3.0e-4)" in said


def test_seconds_from_scratch_to_the_adapted_error_are_told(record, tmp_path):
    for made, seconds in zip(record["scratch"], (17.0, 21.0), strict=True):
        made["seconds_to_adapted"] = seconds
    thin, wide = member_rows(record, "relative_l2")
    assert (thin["scratch_seconds"], thin["scratch_seconds_to_adapted"]) == (50.0, 19.0)
    assert math.isnan(wide["scratch_seconds"]) and math.isnan(wide["scratch_seconds_to_adapted"])
    share = 100 * (6 / 17 + 8 / 21) / 2  # 36.7 %; 60 + 7 n <= 19 n from n = 5 on
    (said,) = equal_error_verdict(record)
    assert f"took 19 s and adapting 7 s, {share:.1f} % of it (medians over 2 runs)" in said
    assert said.endswith("is as quick from 5 members on.")
    page = family_report(write(record, tmp_path)).read_text()
    assert said.replace("'", "&#39;") in page and "<th>seconds from scratch<br>to the adapted error" in page
    with (tmp_path / "members.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (float(first["scratch_seconds_to_adapted"]), second["scratch_seconds_to_adapted"]) == (19.0, "")


def test_what_never_reached_the_adapted_error_is_said(record, tmp_path):
    record["scratch"][0]["seconds_to_adapted"] = record["scratch"][1]["seconds_to_adapted"] = "never"
    assert member_rows(record, "relative_l2")[0]["scratch_seconds_to_adapted"] == "never"
    (said,) = equal_error_verdict(record)
    assert "took longer than it was given and adapting 7 s (medians over 2 runs; 2 never reached it)" in said
    assert "<td>never<td>" in family_report(write(record, tmp_path)).read_text()
    record["scratch"] = record["scratch"][:1]
    record["scratch"][0]["seconds_to_adapted"] = 6.0  # what the adapted member took itself
    assert equal_error_verdict(record)[0].endswith("is as quick never.")
    record["scratch"][0]["seconds_to_adapted"] = 0.0  # the untrained network was as accurate
    assert "inf % of it" in equal_error_verdict(record)[0]


def test_without_histories_the_column_is_left_out_and_the_page_says_so(record, tmp_path):
    assert all("scratch_seconds_to_adapted" not in found for found in member_rows(record, "relative_l2"))
    page = family_report(write(record, tmp_path)).read_text()
    assert "the adapted error are left out: no history of that error is kept" in page
    assert "<th>seconds from scratch<br>to the adapted error" not in page
    record["scratch"] = []
    assert equal_error_verdict(record) == []


def test_what_did_not_carry_over_is_named_with_its_numbers(record):
    record["rows"][1]["relative_l2"], record["rows"][3]["status"] = 0.03, "DIVERGED"
    thin, _ = member_rows(record, "relative_l2")
    assert not thin["carries_over"] and thin["error"] == math.inf
    said = " ".join(verdict(record, *tables(record)))
    assert "LoRA does not carry over to 1 of 2 members" in said and "nu = 0.005: diverged against 1.0e-1" in said


def test_one_seed_that_fails_is_enough_not_to_carry_over(record):
    record["rows"][3]["relative_l2"] = 0.026
    thin, wide = member_rows(record, "relative_l2")
    assert not thin["carries_over"] and wide["carries_over"]


def test_a_run_from_scratch_that_failed_is_in_no_share_and_the_page_says_so(record, tmp_path):
    page = family_report(write(record, tmp_path)).read_text(encoding="utf-8")
    assert "Left out of" not in page and "neither is in the seconds from scratch" not in page
    record["scratch"][1] |= {"status": "DIVERGED", "seconds": 0.1}
    _, second = seed_rows(record, "relative_l2")
    assert math.isnan(second["share"]) and second["left_out"] == "nu = 0.005 (from scratch diverged)"
    page = family_report(write(record, tmp_path)).read_text(encoding="utf-8")
    assert "Adapting takes 12.5 % of" in page, "of the other seed alone: 5 s against 40 s"
    assert "1 member: seed 1 at nu = 0.005 (from scratch diverged)." in page
    assert "neither is in the seconds from scratch, the shares and break-even" in page
    assert [row["left_out"] for row in csv_of(tmp_path, "seeds")] == ["", "nu = 0.005 (from scratch diverged)"]


def test_without_references_residuals_are_compared(record, tmp_path):
    for entry in record["rows"] + record["bases"] + record["scratch"]:
        entry["relative_l2"] = None
    thin, _ = member_rows(record, "residual")
    assert thin["error"] == 0.01 and thin["zero_shot"] == 1.0 and thin["to_base"] == pytest.approx(10.0)
    assert "root mean square of the residual" in family_report(write(record, tmp_path)).read_text()


def test_a_page_before_the_end_says_so_and_works_without_anything_from_scratch(record, tmp_path):
    record |= {"finished": None, "scratch": [], "rows": record["rows"][:2]}
    page = family_report(write(record, tmp_path)).read_text()
    assert "not finished: 2 of 4 members are solved and 0 of 2 trained from scratch" in page
    assert "of the seconds of training" not in page


def csv_of(folder, name):
    with (folder / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_error_near_its_references_own_is_marked_wherever_it_stands(record, tmp_path):
    """At nu = 0.005 the reference may err by 6e-6, so that nothing below 6e-4 is known to two digits; at 0.02 all is."""
    for entry in [*record["rows"], *record["scratch"]]:
        entry["reference_error"] = 6e-6 if entry["nu"] == 0.005 else 1e-9
    record["bases"][0]["reference_error"] = 1e-5
    first, second = seed_rows(record, "relative_l2")
    assert first["near_reference"] == "base"  # its median, 5e-4, is of 1e-4 and of 9e-4, off by 6e-6: off by 3e-6
    assert second["near_reference"] == "worst"
    thin, wide = member_rows(record, "relative_l2")
    assert (thin["reference_error"], wide["reference_error"]) == (6e-6, 1e-9)
    record["rows"][1]["relative_l2"] = 5.6e-4
    page = family_report(write(record, tmp_path)).read_text(encoding="utf-8")
    said = verdict(record, *tables(record))
    assert f"the largest of any member and seed is 5.6e-4{MARK}, at nu = 0.005" in said[0]
    assert "unchanged has a median of 1.0e-1. " in said[0] and f"from scratch 3.0e-4{MARK})" in said[-1]
    assert f"<td>5.3e-4{MARK} <small>[5.0e-4{MARK}, 5.6e-4{MARK}]</small>" in page and f"<td>1.0e-4{MARK}<td>50" in page
    assert "<td>2.0e-4 <small>[1.0e-4, 3.0e-4]</small>" in page, "what is known is not marked"
    assert page.count(f"<td>2.0e-4{MARK}<td>1.0e-3") == page.count(f"<td>5.0e-4{MARK}<td>1.0e-2") == 1, "every run"
    assert page.count(f"<small>{MARK} Below 100 times what the reference itself may err by") == 4
    near = {
        name: [row["near_reference"] for row in csv_of(tmp_path, name)] for name in ("family", "scratch", "members")
    }
    assert near["family"] == ["", "relative_l2", "", "relative_l2"] and near["scratch"] == ["relative_l2"] * 2
    assert near["members"] == ["error error_min error_max from_scratch", ""]
    assert [row["worst_reference_error"] for row in csv_of(tmp_path, "seeds")] == ["6e-06", "6e-06"]


def test_nothing_is_marked_where_no_bound_is_told(record, tmp_path):
    """A closed form has none, older versions wrote none, and a residual is not measured by the reference."""
    for bound in ("left out", None, 1e-12):
        for entry in [*record["rows"], *record["scratch"], *record["bases"]]:
            entry |= {} if bound == "left out" else {"reference_error": bound}
        assert MARK not in family_report(write(record, tmp_path)).read_text(encoding="utf-8")
    for entry in record["rows"] + record["bases"] + record["scratch"]:
        entry |= {"relative_l2": None, "zero_shot": None, "reference_error": 1.0}
    assert MARK not in family_report(write(record, tmp_path)).read_text(encoding="utf-8")


def test_markup_in_a_title_is_text(record, tmp_path):
    record["config"]["title"] = "<script>alert(1)</script>"
    page = family_report(write(record, tmp_path)).read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_what_is_no_family_is_refused(record, tmp_path):
    assert not is_family(tmp_path)
    with pytest.raises(ReportError, match=r"has no family_study\.json: it holds no results"):
        family_report(tmp_path)
    write({**record, "rows": []}, tmp_path)
    assert is_family(tmp_path)
    with pytest.raises(ReportError, match="has no solved member yet"):
        family_report(tmp_path)
