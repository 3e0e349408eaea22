"""The benchmark of when points are added: every schedule is measured, and each is what it says."""

import json

from benchmark import load

bench = load("points")


def test_every_schedule_is_measured_in_every_case(tmp_path):
    bench.main(["--quick", "--out", str(tmp_path / "p.json")])
    rows = json.loads((tmp_path / "p.json").read_text())["rows"]
    assert [row["resample_every"] for row in rows] == bench.SCHEDULES * 4
    for row in rows:
        added = {10: [125], None: [100]}.get(row["resample_every"], [100, 125])  # 12 steps have one chance
        assert row["points"][0] in added
        assert row["seconds"][0] > 0 and row["relative_l2"][0] > 0
