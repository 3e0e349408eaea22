"""SPQN: one layer is L-BFGS, the global direction is BFGS's, and local steps do what they are for."""

import pytest
import torch
from small_objective import objective_of, started

from pinn_lora.optimizers.lbfgs import LBFGS
from pinn_lora.optimizers.spqn import SPQN, SPQNRun

KINDS = ["additive", "multiplicative"]


@pytest.mark.parametrize("kind", KINDS)
def test_with_one_layer_it_is_lbfgs(kind):
    objective = objective_of(targets=["layers.1"])
    (run, theta), (plain, other) = (
        started(rule, objective, step_size=1.0, max_steps=30) for rule in (SPQN(kind=kind, history=7), LBFGS(history=7))
    )
    for _ in range(15):
        theta, other = run.step(objective, theta).theta, plain.step(objective, other).theta
        assert torch.equal(theta, other)


def test_the_global_direction_is_that_of_the_dense_inverse():
    """H of limited-memory BFGS built up densely from the same pairs."""
    generator = torch.Generator().manual_seed(1)
    C = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    C = C @ C.T + torch.eye(7).double()
    run = SPQNRun(SPQN(), [], 1.0)
    for _ in range(4):
        s = torch.randn(7, generator=generator, dtype=torch.float64)
        run.pairs.append((s, C @ s))
    s, y = run.pairs[-1]
    H = (s @ y) / (y @ y) * torch.eye(7).double()
    for s, y in run.pairs:
        V = torch.eye(7).double() - torch.outer(y, s) / (y @ s)
        H = V.T @ H @ V + torch.outer(s, s) / (y @ s)
    g = torch.randn(7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(run._direction(g), -H @ g, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_at_every_step_and_faster_a_step_than_lbfgs(kind, adapted):
    objective = objective_of(form="soft", adapted=adapted)
    values = {}
    for rule in (SPQN(kind=kind), LBFGS(history=10)):
        run, theta = started(rule, objective, step_size=1.0, max_steps=30)
        found = [objective.value(theta)]
        for _ in range(8):
            taken = run.step(objective, theta)
            assert taken.value == pytest.approx(found[-1], rel=1e-12)
            theta = taken.theta
            found.append(objective.value(theta))
            assert found[-1] <= found[-2]
        values[type(rule).__name__] = found[-1]
    assert values["SPQN"] < values["LBFGS"]


def test_layers_are_subdomains():
    objective = objective_of(train_biases=True, train_output=True)
    run, _ = started(SPQN(), objective, step_size=1.0, max_steps=9)
    assert sorted(len(place) for place in run.places) == sorted([5, 2 * 10 + 5, 2 * 10 + 5, 6])
    assert torch.equal(torch.cat(run.places).sort().values, torch.arange(objective.size))


def test_a_multiplicative_sweep_moves_each_layer_alone():
    objective = objective_of()
    run, theta = started(SPQN(local=3), objective, step_size=1.0, max_steps=9)
    moved = run._locally(objective, theta, run.places[0])
    assert not torch.equal(moved[run.places[0]], theta[run.places[0]])
    assert torch.equal(moved[run.places[1]], theta[run.places[1]])
    assert objective.value(moved) < objective.value(theta)


def test_new_points_restart_the_pairs():
    objective = objective_of()
    run, theta = started(SPQN(local=2), objective, step_size=1.0, max_steps=9)
    for _ in range(3):
        theta = run.step(objective, theta).theta
    assert len(run.pairs) == 3
    run.step(objective.with_points(objective_of(seed=9).points), theta)
    assert len(run.pairs) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "multiplicativ"}, "no kind of spqn 'multiplicativ'; did you mean 'multiplicative'"),
        ({"local": 0}, "spqn: local is 0; it must be a whole number, at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SPQN(**options)
