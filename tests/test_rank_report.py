"""Rank against distance in a table and in sentences: numbers by hand."""

import math

import pytest

from pinn_lora.families.rank_report import rank_table, rank_verdict, ranks_of
from pinn_lora.marks import MARK

VARIED = ["a", "b"]


def row(member, rank, error, *, seed=0, status="COMPLETED", zero_shot=1.0, distance=None):
    a, b = member
    distance = math.hypot(math.log(a), math.log(b / 4)) if distance is None else distance
    told = {"relative_l2": error, "zero_shot": zero_shot, "residual": 10 * error, "zero_shot_residual": 10.0}
    return {"seed": seed, "a": a, "b": b, "distance": distance, "rank": rank, "status": status, **told}


NEAR, MIDDLE, FAR = (1, 5), (1, 2), (2, 2)
ROWS = [
    *(row(FAR, rank, error) for rank, error in ((1, 0.9), (2, 0.8), (8, 0.6))),
    *(row(MIDDLE, rank, error) for rank, error in ((1, 0.7), (2, 0.24), (8, 0.01))),
    *(row(NEAR, rank, error) for rank, error in ((1, 0.2), (2, 0.02), (8, 0.001))),
]


def test_members_stand_nearest_first_with_the_least_rank_that_carries_over():
    table = rank_table(ROWS, VARIED, "relative_l2")
    assert [(r["a"], r["b"]) for r in table] == [NEAR, MIDDLE, FAR]
    assert [r["least_rank"] for r in table] == [1, 2, None]
    assert [r["largest_carries_over"] for r in table] == [True, True, False]
    assert [table[1][f"rank_{rank}"] for rank in ranks_of(ROWS)] == [0.7, 0.24, 0.01]
    assert table[0]["distance"] == pytest.approx(math.log(5 / 4))


def test_every_seed_counts_and_the_middle_one_is_shown():
    errors = ((1, 0.01), (2, 0.02), (3, 0.26))
    (found,) = rank_table([row(NEAR, 4, error, seed=s) for s, error in errors], VARIED, "relative_l2")
    assert (found["seeds"], found["rank_4"], found["least_rank"]) == (3, 0.02, None)


def test_a_run_that_diverged_does_not_carry_over():
    (found,) = rank_table([row(NEAR, 4, 0.01, status="DIVERGED")], VARIED, "relative_l2")
    assert found["rank_4"] == math.inf and found["largest_carries_over"] is False
    assert "(diverged against 1.0e0)" in rank_verdict([row(NEAR, 4, 0.01, status="DIVERGED")], VARIED, "relative_l2")[0]


def test_the_sentence_names_where_the_largest_rank_fails_and_by_how_much():
    said = rank_verdict(ROWS, VARIED, "relative_l2")
    assert said[0] == (
        "Straight from the base, LoRA does not carry over to 1 of 3 members even at rank 8 (above a quarter of zero-shot): "
        "a = 2, b = 2 at distance 0.98 (6.0e-1 against 1.0e0)."
    )
    assert said[1:] == ["It carries over up to distance 0.69 and from 0.98 on no more."]


def test_what_is_near_the_references_own_error_is_marked():
    rows = [row | {"reference_error": 7e-3 if (row["a"], row["b"]) == FAR else 1e-9} for row in ROWS]
    assert [r["reference_error"] for r in rank_table(rows, VARIED, "relative_l2")] == [1e-9, 1e-9, 7e-3]
    assert f"(6.0e-1{MARK} against 1.0e0)" in rank_verdict(rows, VARIED, "relative_l2")[0]
    rows = [row | {"reference_error": 1.0} for row in ROWS]
    assert MARK not in "".join(rank_verdict(rows, VARIED, "residual")), "the reference is not asked there"


def test_where_distance_does_not_tell_it_is_said():
    turned = [{**r, "relative_l2": 0.5} if (r["a"], r["b"]) == NEAR else r for r in ROWS[3:]] + [row(FAR, 8, 0.1)]
    assert rank_verdict(turned, VARIED, "relative_l2")[1:] == [
        "Distance alone does not tell: the nearest of these is at 0.22, and rank 8 carries over as far as 0.98."
    ]


def test_a_member_that_is_the_base_up_to_rounding_is_left_out_of_the_sentences():
    """There is nothing to carry over: the base is as good there as it gets."""
    rows = [*ROWS, *(row((1, 1), rank, 1.0, distance=2e-16) for rank in (1, 2, 8))]
    assert rank_verdict(rows, VARIED, "relative_l2") == rank_verdict(ROWS, VARIED, "relative_l2")


def test_a_smaller_rank_that_does_carry_over_is_named():
    said = rank_verdict([row(FAR, 2, 0.1), row(FAR, 8, 0.4)], VARIED, "relative_l2")
    assert "(4.0e-1 against 1.0e0, though rank 2 does)" in said[0] and len(said) == 1


def test_where_all_carry_over_the_farthest_is_named():
    assert rank_verdict(ROWS[3:], VARIED, "relative_l2") == [
        "Straight from the base, rank 8 carries over to all 2 members, the farthest at distance 0.69."
    ]


def test_of_what_is_not_there_yet_nothing_is_said():
    rows = [*ROWS[:2], *ROWS[3:]]
    assert rank_table(rows, VARIED, "relative_l2")[2]["largest_carries_over"] is None
    assert "all 2 members" in rank_verdict(rows, VARIED, "relative_l2")[0]


def test_without_references_residuals_are_compared():
    rows = [{**r, "relative_l2": None, "zero_shot": None} for r in ROWS]
    table = rank_table(rows, VARIED, "residual")
    assert [r["least_rank"] for r in table] == [1, 2, None] and table[0]["zero_shot"] == 10.0
