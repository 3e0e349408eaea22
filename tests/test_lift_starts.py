"""Where a lift cannot begin: what it says it inverts, and starts that are refused."""

import re

import pytest
import torch
from lift_oracles import (
    CASES,
    LIFTS,
    build,
    metric_of,
    pair_and_gradients,
    velocity,
)

from pinn_lora.lifts import Lift, Pair, check_start


def lower_rank(factor: str, rank: int, *, exact: bool = True) -> Pair:
    """A pair of rank 2 of which one factor has rank 0 or 1: by zeros, or, to rounding, by dependent columns or rows."""
    (B, A, scale), *_ = pair_and_gradients((5, 4, 2), 0.7)
    keep = torch.tensor([[1.0, 0.0 if exact else 0.3], [0.0, 0.0]]).double() * rank
    return Pair(B @ keep, A, scale) if factor == "B" else Pair(B, keep.T @ A, scale)


NOT_ZERO = {("refactored", "A", 0)}  # however it is damped
SINGULAR = [(factor, rank) for factor in ("B", "A") for rank in (0, 1)]


@pytest.mark.parametrize(("factor", "rank"), SINGULAR)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_undamped_is_said_exactly_where_a_factor_must_have_full_rank(name, options, factor, rank):
    """Or must not be zero. There the velocity is not finite, and neither it nor the mass is an exception: a run that comes
    there diverged. The roots that refactored takes hide a rank of 1 in rounding."""
    lift, pair = build(name, options), lower_rank(factor, rank)
    _, G, *_ = pair_and_gradients((5, 4, 2))
    found = velocity(lift, pair, G @ pair.A.T, pair.B.T @ G)
    if not (name == "refactored" and rank == 1):
        assert bool(found.isfinite().all()) == (factor not in lift.undamped and (name, factor, rank) not in NOT_ZERO)
    if lift.has_mass:
        lift.mass(pair, metric_of(lift, pair))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("factor", "rank"), SINGULAR)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_start_of_lower_rank_is_refused_where_the_lift_needs_the_full(name, options, factor, rank, exact):
    lift, full, low = build(name, options), pair_and_gradients((5, 4, 2), 0.7)[0], lower_rank(factor, rank, exact=exact)
    check_start(lift, {"first": full})
    if factor in lift.undamped:
        said = f"needs factors of full rank, and {factor} of 'second' has rank {rank} of 2; take its damping above 0, or the"
        with pytest.raises(ValueError, match=rf"^{re.escape(str(lift))} {said} start balanced$") as caught:
            check_start(lift, {"first": full, "second": low})
        assert "\n" not in str(caught.value)
    elif (name, factor, rank) in NOT_ZERO:
        said = f"cannot begin where {factor} of 'second' is zero; take the start balanced"
        with pytest.raises(ValueError, match=rf"^{re.escape(str(lift))} {said}$"):
            check_start(lift, {"first": full, "second": low})
    else:
        check_start(lift, {"first": full, "second": low})


def test_a_lift_that_does_not_say_what_it_inverts_is_refused_where_it_is_not_finite():
    class Careless(Lift):
        def velocity(self, pair, g_B, g_A, metric):
            return -g_B / pair.K.diagonal(), -g_A / pair.S.diagonal()[:, None]

    for factor in ("B", "A"):
        with pytest.raises(
            ValueError, match=f"Careless.* needs factors of full rank, and {factor} of 'x' has rank 1 of 2"
        ):
            check_start(Careless(), {"x": lower_rank(factor, 1)})


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_start_where_no_factor_moves_is_refused(name, options):
    lift, full = build(name, options), pair_and_gradients((5, 4, 2))[0]
    stays = {"one_factor": "B" if options.get("side") == "A" else "A"}.get(name)
    for factor in ("B", "A"):
        pairs = {"x": lower_rank(factor, 0), "y": lower_rank(factor, 0)}
        if factor in lift.undamped or (name, factor, 0) in NOT_ZERO:
            continue
        if factor == stays:
            said = (
                f"moves no factor from this start, where {factor} is zero; take one in which neither is zero, such as"
            )
            with pytest.raises(ValueError, match=rf"^OneFactor\(.*\) {said} balanced$"):
                check_start(lift, pairs)
            check_start(lift, {**pairs, "z": full})
        else:
            check_start(lift, pairs)
    if not lift.undamped:
        with pytest.raises(ValueError, match=r"moves no factor from this start, where B and A is zero"):
            check_start(lift, {"x": Pair(0 * full.B, 0 * full.A, 1.0)})
    check_start(lift, {})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("name", LIFTS)
def test_factors_that_overflowed_give_a_velocity_that_is_not_finite_and_no_exception(name, rank, bad):
    """A run that diverges is recorded as such."""
    pair, _, gB, gA = pair_and_gradients((5, 6, rank))
    pair = Pair(pair.B * bad, pair.A * bad, 1.0)
    found = velocity(build(name), pair, gB * bad * bad, gA * bad * bad)
    assert not found.isfinite().all()
