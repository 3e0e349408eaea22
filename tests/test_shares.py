"""The seconds of a family over those from scratch: by hand, and whatever short a failed run was."""

import math

import pytest

from pinn_lora.families.shares import failure, share_row, share_verdict

BASE = {"seconds": 60.0}


def row(nu, seconds, error=1e-3, **told):
    return {"seed": 0, "nu": nu, "seconds": seconds, "relative_l2": error, "status": "COMPLETED", **told}


OWN = [row(0.1, 4.0), row(0.2, 6.0), row(0.3, 5.0), row(0.4, 9.0)]
MADE = [row(0.1, 30.0, 1e-4, seconds_to_adapted=7.0), row(0.4, 50.0, 1e-4, seconds_to_adapted=9.0)]


def share(own, made):
    return share_row(own, made, BASE, ["nu"], "relative_l2")


def test_the_share_is_a_mean_member_over_a_mean_run_from_scratch():
    found = share(OWN, MADE)
    assert (found["base_seconds"], found["family_seconds"], found["scratch_seconds"]) == (60.0, 24.0, 40.0)
    assert found["share"] == pytest.approx(6 / 40) and found["share_with_base"] == pytest.approx((24 + 60) / 160)
    assert (found["break_even"], found["left_out"]) == (2, "")  # 60 + 6 n <= 40 n from n = 60 / 34 on
    assert share_verdict([{"seed": 0, **found}], 2) == [
        "Adapting takes 15.0 % of the seconds of training each member from scratch, 52.5 % with the base's pretraining charged "
        "(medians over seeds; from scratch measured on 2 runs); it is as quick from 2 members on."
    ]


FAILED = {
    "from scratch diverged": {"status": "DIVERGED", "relative_l2": None, "seconds_to_adapted": 1.0},
    "from scratch never reached the adapted error": {"relative_l2": 1.0, "seconds_to_adapted": "never"},
}


@pytest.mark.parametrize("seconds", [0.1, 3.0, 1e4])
@pytest.mark.parametrize("why", FAILED)
def test_a_run_from_scratch_that_failed_is_left_out_with_its_member(why, seconds):
    """Its seconds are in no mean, and its member's neither: a = (4 + 6 + 5) / 3 = 5, s = 30, n = 4."""
    found = share(OWN, [MADE[0], {**MADE[1], "seconds": seconds, **FAILED[why]}])
    assert (found["family_seconds"], found["scratch_seconds"]) == (24.0, 30.0)
    assert found["share"] == pytest.approx(5 / 30) and found["share_with_base"] == pytest.approx((5 + 60 / 4) / 30)
    assert (found["break_even"], found["left_out"]) == (3, f"nu = 0.4 ({why})")  # 60 + 5 n <= 30 n from n = 2.4 on
    said = share_verdict([{"seed": 3, **found}], 2)
    assert said[1:] == [f"Left out of this, adapted and from scratch: 1 member: seed 3 at nu = 0.4 ({why})."]


def test_a_member_that_diverged_is_left_out_with_its_run_from_scratch():
    own = [*OWN[:2], row(0.3, 0.1, None, status="DIVERGED"), row(0.4, 0.1, None, status="DIVERGED")]
    found = share(own, [MADE[0], row(0.4, 50.0)])
    assert found["share"] == pytest.approx(5 / 30)
    assert found["left_out"] == "nu = 0.3 (adapted diverged); nu = 0.4 (adapted diverged)"
    (_, said) = share_verdict([{"seed": 0, **found}], 2)
    assert ": 2 members: seed 0 at nu = 0.3 (adapted diverged); seed 0 at nu = 0.4 (adapted diverged)." in said


def test_without_histories_the_last_error_tells():
    why = "from scratch never reached the adapted error"
    for error, expected in ((9e-4, ""), (1e-3, ""), (1.1e-3, why), (None, why)):
        assert failure(OWN, row(0.1, 30.0, error), ["nu"], "relative_l2") == expected
    reached = row(0.1, 30.0, 0.5, seconds_to_adapted=7.0)  # it was there before it ended above
    assert failure(OWN, reached, ["nu"], "relative_l2") == ""
    assert failure(OWN, row(0.7, 30.0, 0.5), ["nu"], "relative_l2") == "", "the member is not solved yet"


def test_where_all_failed_there_is_no_share_and_it_is_said():
    failed = {**MADE[0], "status": "DIVERGED"}
    found = share(OWN[:1], [failed])
    assert math.isnan(found["share"]) and math.isnan(found["scratch_seconds"]) and found["break_even"] is None
    (said,) = share_verdict([{"seed": 0, **found}], 1)
    assert said.startswith("Left out of a comparison of seconds, so that there is none: 1 member: seed 0 at nu = 0.1 (")
    assert share_verdict([{"seed": 0, **share(OWN, [])}], 0) == []
