"""OD-LoRA: its product step, what is frozen, and the refreshes of its bases."""

import itertools

import pytest
import torch
from probes import probes_of
from small_objective import assert_close, dense, objective_of, started

from pinn_lora import catalog, initializers
from pinn_lora.optimizers.od_lora import ODLoRA
from pinn_lora.presets import PRESETS

START = {"initializer": "od_lora"}


def refreshed(basis="qr", **options):
    """A run after its first step, whose bases are those of the moving halves."""
    objective = objective_of(rank=4, **START, **options)
    run, theta = started(ODLoRA(basis=basis, warmup=1, every=5), objective, step_size=1e-3, max_steps=99)
    return objective, run, run.step(objective, theta).theta


@pytest.mark.parametrize("basis", ["qr", "polar"])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_with_fixed_bases_the_product_step_is_scaled_gds(scale, basis):
    """s^2 (P_B G + G P_A) of the moving halves' subspaces, right after a refresh."""
    objective, run, theta = refreshed(basis, scale=scale)
    before = dense(objective, theta)
    after = dense(objective, run.step(objective, theta).theta)
    for (B, A, G, s), (B2, A2, _, _) in zip(before, after, strict=True):
        moving_B, moving_A = B[:, 2:], A[:2]
        P, Q = moving_B @ torch.linalg.pinv(moving_B), torch.linalg.pinv(moving_A) @ moving_A
        assert_close(B2 @ A2 - B @ A, -1e-3 * s * (P @ G + G @ Q), 1e-8)  # s times this is the step of W


@pytest.mark.parametrize("basis", ["qr", "polar"])
def test_bases_are_orthonormal_span_the_moving_halves_and_rest_between_refreshes(basis):
    objective, run, theta = refreshed(basis)
    for B, A, _, _ in dense(objective, theta):
        for Q, moving in ((B[:, :2], B[:, 2:]), (A[2:].T, A[:2].T)):
            torch.testing.assert_close(Q.T @ Q, torch.eye(2).double(), rtol=0, atol=1e-13)
            assert_close(Q @ Q.T @ moving, moving, 1e-12)
            if basis == "polar":  # Q = B (B^T B)^-1/2: Q^T B is symmetric and positive
                assert_close(Q.T @ moving, (Q.T @ moving).T, 1e-12)
                assert torch.linalg.eigvalsh(Q.T @ moving)[0] > 0
    kept = [(B[:, :2].clone(), A[2:].clone()) for B, A, _, _ in dense(objective, theta)]
    for step in range(2, 6):
        theta = run.step(objective, theta).theta
        now = [(B[:, :2], A[2:]) for B, A, _, _ in dense(objective, theta)]
        same = [torch.equal(a, b) for one, two in zip(now, kept, strict=True) for a, b in zip(one, two, strict=True)]
        assert all(same) == (step < 5), "every = 5"


@pytest.mark.parametrize("basis", ["qr", "polar"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_the_first_step_moves_the_weights_by_the_step_size(warmup, basis):
    """|theta_1 - theta_0| and the loss's change are O(h): h = 1e-6, 1e-8, 1e-10 give 1/100 each, to 1 %; and none at h -> 0."""
    changes = []
    for h in (1e-6, 1e-8, 1e-10):
        objective = objective_of(rank=4, **START)
        run, theta = started(ODLoRA(basis=basis, warmup=warmup), objective, step_size=h, max_steps=9)
        taken = run.step(objective, theta)
        pairs = zip(dense(objective, theta), dense(objective, taken.theta), strict=True)
        moved = sum(float((B2 @ A2 - B @ A).norm()) for (B, A, _, _), (B2, A2, _, _) in pairs)
        changes.append((moved, taken.value - objective.value(taken.theta)))
    for coarse, fine in itertools.pairwise(changes):
        assert fine[0] == pytest.approx(coarse[0] / 100, rel=1e-2)
    assert changes[0][0] < 1e-4
    assert changes[1][1] == pytest.approx(changes[0][1] / 100, rel=1e-2)
    assert changes[0][1] > 0


@pytest.mark.parametrize("basis", ["qr", "polar"])
def test_bases_are_orthonormal_without_a_warmup_too(basis):
    objective = objective_of(rank=4, **START)
    run, theta = started(ODLoRA(basis=basis, warmup=0), objective, step_size=1e-3, max_steps=99)
    for _ in range(3):
        theta = run.step(objective, theta).theta
        for B, A, _, _ in dense(objective, theta):
            for Q in (B[:, :2], A[2:].T):
                torch.testing.assert_close(Q.T @ Q, torch.eye(2).double(), rtol=0, atol=1e-14)


def test_signs_do_not_jump():
    """From one refresh to the next every column of Q keeps its direction."""
    objective = objective_of(rank=4, **START)
    run, theta = started(ODLoRA(warmup=9), objective, step_size=1e-3, max_steps=99)
    theta = run.step(objective, theta).theta
    for _ in range(8):
        before = [(B[:, :2], A[2:].T) for B, A, _, _ in dense(objective, theta)]
        theta = run.step(objective, theta).theta
        for old, (B, A, _, _) in zip(before, dense(objective, theta), strict=True):
            for Q, P in zip(old, (B[:, :2], A[2:].T), strict=True):
                assert ((Q * P).sum(0) > 0.5).all()


def test_momentum_is_heavy_ball_on_the_moving_halves_and_restarts_at_a_refresh():
    objective = objective_of(rank=4, **START)
    rule = ODLoRA(warmup=0, every=3, beta=0.9)
    run, theta = started(rule, objective, step_size=1e-3, max_steps=99)
    g, path = [], [theta]
    for _ in range(3):
        g.append(objective.gradient(path[-1])[1])
        path.append(run.step(objective, path[-1]).theta)
    assert run.momentum is None
    for block in objective.blocks.pairs:
        (B0, A0), (B2, A2) = (block.split(path[k][block.slice]) for k in (0, 2))
        (gB0, gA0), (gB1, gA1) = (block.split(found[block.slice]) for found in g[:2])
        assert_close(B2[:, 2:], (B0 - 1e-3 * (1.9 * gB0 + gB1))[:, 2:], 1e-12)
        assert_close(A2[:2], (A0 - 1e-3 * (1.9 * gA0 + gA1))[:2], 1e-12)
        assert torch.equal(B2[:, :2], B0[:, :2])
        assert torch.equal(A2[2:], A0[2:])


@pytest.mark.parametrize("name", catalog.names(initializers))
def test_every_start_but_its_own_is_refused(name):
    objective = objective_of(rank=2, initializer=name, probes=probes_of(objective_of(adapted=False).network))
    if name == PRESETS["od-lora"].initializer:
        started(ODLoRA(), objective, step_size=1e-3, max_steps=9)
        return
    with pytest.raises(ValueError, match="would lose the pretrained network; take the start od_lora"):
        started(ODLoRA(), objective, step_size=1e-3, max_steps=9)


@pytest.mark.parametrize("spoil", ["order", "length", "nan", "zero"])
def test_halves_that_do_not_fit_are_refused(spoil):
    """Bases in another order or not of length 1; factors that are not finite; a moving half that is zero."""
    objective = objective_of(rank=4, **START)
    layer = objective.network.layers[2]
    with torch.no_grad():
        change = {
            "order": lambda: layer.B[:, 2:].copy_(layer.B[:, 2:].flip(1).clone()),
            "length": lambda: layer.A[2:].mul_(1.01),
            "nan": lambda: layer.B.fill_(torch.nan),
            "zero": lambda: layer.A[:2].zero_(),
        }
        change[spoil]()
    with pytest.raises(ValueError, match="od_lora begins with frozen halves that are the bases of the moving ones"):
        started(ODLoRA(), objective, step_size=1e-3, max_steps=9)


@pytest.mark.parametrize("column", [0, 1])
def test_a_basis_with_the_other_sign_is_the_same_start(column):
    """QR's own signs are LAPACK's; those of the bases that are there are kept, so nothing moves for h -> 0."""
    objective = objective_of(rank=4, **START)
    layer = objective.network.layers[2]
    with torch.no_grad():
        layer.B[:, [column, 2 + column]] *= -1.0
    run, theta = started(ODLoRA(), objective, step_size=1e-12, max_steps=9)
    assert (run.step(objective, theta).theta - theta).norm() < 1e-10


def test_an_odd_rank_is_refused():
    with pytest.raises(ValueError, match="its rank must be even; it is 3"):
        started(ODLoRA(), objective_of(rank=3), step_size=1e-3, max_steps=9)


def test_its_start_is_taken_in_single_precision():
    """In float32 QR finds the bases again to 1e-6, no nearer."""
    objective = objective_of(rank=4, **START)
    single = objective.blocks.read(objective.network.float())
    assert single.dtype == torch.float32
    ODLoRA().start(objective.blocks, single, step_size=1e-3, max_steps=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "svd"}, r"no basis of od_lora 'svd' \(choices: qr, polar\)|there is no basis of od_lora 'svd'"),
        ({"every": 0}, "od_lora: every is 0; it must be a whole number, at least 1"),
        ({"beta": 1.0}, "od_lora: beta is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ODLoRA(**options)
