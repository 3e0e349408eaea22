"""SPQN: one subdomain is L-BFGS, the global direction is BFGS's, and local steps do what they are for."""

import pytest
import torch
from small_objective import objective_of, started

from pinn_lora.optimizers.lbfgs import LBFGS, LBFGSRun
from pinn_lora.optimizers.spqn import SPQN, SPQNRun
from pinn_lora.wolfe import evaluate, strong_wolfe

KINDS = ["additive", "multiplicative"]


@pytest.mark.parametrize("local", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_local_steps_of_one_subdomain_are_torchs_lbfgs(kind, local):
    """One subdomain, all of theta: where the global step begins is where torch's own L-BFGS ends in as many iterations, so the
    decomposition adds nothing. To 1e-10: torch keeps what a line search has seen, we evaluate again."""
    objective = objective_of(targets=["layers.1"], train_biases=True)
    theta = objective.blocks.read(objective.network)
    run = SPQNRun(SPQN(kind=kind, local=local, history=3), [torch.arange(len(theta))], 1.0)
    found = run._precondition(objective, evaluate(objective, theta)).theta
    parameter = torch.nn.Parameter(theta.clone())
    options = {"max_eval": 999, "history_size": 3, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    direct = torch.optim.LBFGS([parameter], max_iter=local, line_search_fn="strong_wolfe", **options)

    def closure():
        value, parameter.grad = objective.gradient(parameter.detach())
        return value

    direct.step(closure)
    assert (parameter.detach() - theta).norm() > 1e-2
    assert (found - parameter.detach()).norm() < 1e-10 * theta.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_is_handed_to_lbfgs(kind):
    """By construction, with SPQN's history: a global step after local ones on all of theta would be L-BFGS twice."""
    objective = objective_of(targets=["layers.1"])
    run, _ = started(SPQN(kind=kind, history=7), objective, step_size=0.5, max_steps=30)
    assert isinstance(run, LBFGSRun)
    assert (run.settings, run.h) == (LBFGS(history=7), 0.5)


class Quadratic:
    """f = (theta - 1)^T C (theta - 1) / 2."""

    def __init__(self, C: torch.Tensor) -> None:
        self.C = C

    def gradient(self, theta):
        g = self.C @ (theta - 1.0)
        return 0.5 * float(g @ (theta - 1.0)), g


def quadratic(size: int, *, coupling: float, seed: int = 1) -> Quadratic:
    """C of random eigenvectors, and all pairs of unknowns coupled by as much."""
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Quadratic(0.1 * noise @ noise.T + torch.eye(size).double() + coupling * torch.ones(size, size).double())


def dense_inverse(pairs) -> torch.Tensor:
    """H of BFGS built up from the pairs, from (s.y / y.y) I of the last one."""
    s, y = pairs[-1]
    eye = torch.eye(len(s)).double()
    H = (s @ y) / (y @ y) * eye
    for s, y in pairs:
        V = eye - torch.outer(y, s) / (y @ s)
        H = V.T @ H @ V + torch.outer(s, s) / (y @ s)
    return H


def test_the_global_direction_is_that_of_the_dense_inverse():
    """H of limited-memory BFGS built up densely from the same pairs."""
    generator = torch.Generator().manual_seed(1)
    C = quadratic(7, coupling=0.0).C
    run = SPQNRun(SPQN(), [], 1.0)
    for _ in range(4):
        s = torch.randn(7, generator=generator, dtype=torch.float64)
        run.pairs.append((s, C @ s))
    g = torch.randn(7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(run._direction(g), -dense_inverse(run.pairs) @ g, rtol=1e-11, atol=1e-12)


def test_without_local_steps_it_is_torchs_lbfgs():
    """Of a kind objective, where torch's line search and SciPy's both take every step whole."""
    objective = quadratic(6, coupling=0.0)
    theta = 1.0 + 0.1 * torch.linspace(-1.0, 1.5, 6, dtype=torch.float64)
    run, other = SPQNRun(SPQN(history=3), [], 1.0), theta
    plain = LBFGS(history=3).start(None, theta, step_size=1.0, max_steps=9)
    for k in range(6):
        before, theta, other = theta, run.step(objective, theta).theta, plain.step(objective, other).theta
        assert len(run.pairs) == min(k + 1, 3)
        assert (theta - other).norm() < 1e-10 * (theta - before).norm()
    assert (theta - 1.0).norm() < 1e-4


def alone(objective: Quadratic, theta: torch.Tensor, place: torch.Tensor, local: int) -> torch.Tensor:
    """theta after `local` iterations of torch's L-BFGS with two pairs on one block; 40 reach its minimum, which is solved
    for."""
    C, rest = objective.C, theta - 1.0
    rest = rest.index_fill(0, place, 0.0)
    if local == 40:
        part = 1.0 - torch.linalg.solve(C[place][:, place], (C @ rest)[place])
        return theta.index_copy(0, place, part)
    part = torch.nn.Parameter(theta[place].clone())
    options = {
        "max_eval": 999,
        "history_size": 2,
        "tolerance_grad": 0.0,
        "tolerance_change": 0.0,
        "line_search_fn": "strong_wolfe",
    }
    direct = torch.optim.LBFGS([part], max_iter=local, **options)

    def closure():
        value, g = objective.gradient(theta.index_copy(0, place, part.detach()))
        part.grad = g[place]
        return value

    direct.step(closure)
    return theta.index_copy(0, place, part.detach())


def corrected(objective, theta, places, kind, local) -> tuple[torch.Tensor, int]:
    """Where the local steps end, and how often the sum of their changes was halved."""
    if kind == "multiplicative":
        for place in places:
            theta = alone(objective, theta, place, local)
        return theta, 0
    changes = torch.zeros_like(theta)
    for place in places:
        changes[place] = (alone(objective, theta, place, local) - theta)[place]
    value, g = objective.gradient(theta)
    halvings = 0
    while objective.gradient(theta + changes)[0] > value + 1e-4 * float(changes @ g):
        changes, halvings = changes / 2, halvings + 1
    return theta + changes, halvings


@pytest.mark.parametrize(("local", "tolerance"), [(2, 1e-9), (5, 1e-8), (40, 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_written_out(kind, local, tolerance):
    """Three layers that pull the same way: local steps, from theta or one after another, then BFGS with dense H from where
    they ended, whose pairs begin there. The sum of three whole changes is too long, and is halved. To 1e-5 where a layer's
    minimum is solved for: a line search sees the loss to 1e-16, so it ends about 1e-8 from there."""
    objective, halved = quadratic(9, coupling=2.0), 0
    places = [torch.arange(3), torch.arange(3, 7), torch.arange(7, 9)]
    theta = torch.linspace(-2.0, 3.0, 9, dtype=torch.float64)
    run, pairs = SPQNRun(SPQN(kind=kind, local=local, history=2), places, 1.0), []
    for _ in range(4):
        middle, halvings = corrected(objective, theta, places, kind, local)
        g = objective.C @ (middle - 1.0)
        direction = -dense_inverse(pairs) @ g if pairs else -g * min(1.0, 1.0 / float(g.abs().sum()))
        expected = strong_wolfe(objective, evaluate(objective, middle), direction).theta
        moved, halved = expected - theta, halved + halvings
        pairs = [*pairs, (expected - middle, objective.C @ (expected - middle))][-2:]
        theta = run.step(objective, theta).theta
        assert (theta - expected).norm() < tolerance * moved.norm()
        for found, wanted in zip(run.pairs, pairs, strict=True):
            assert all((a - b).norm() < tolerance * b.norm() for a, b in zip(found, wanted, strict=True))
    assert (halved > 0) == (kind == "additive")


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
