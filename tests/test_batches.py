"""Batches of objectives: what each of them gives by itself, for every kind of term and of what is trained."""

import gc
import math
import weakref

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.schroedinger import Schroedinger
from small_problems import ADAPTED, PROBLEMS, HiddenField, doubtful, mlp, objective, somewhere, trained

import pinn_lora as pl
from pinn_lora import compiling
from pinn_lora import objective as objective_module
from pinn_lora.batches import Batch, batch_key, batched_passes
from pinn_lora.lora import Blocks
from pinn_lora.objective import Objective
from pinn_lora.passes import Passes
from pinn_lora.points import first_points

TOLERANCE = 1e-10  # float64, relative to the largest entry: the same sums in another order


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def agree(members: list[Objective], tolerance: float = TOLERANCE, *, like: list[Objective] | None = None) -> None:
    """All that a batch gives, against each member alone, or those in its place, at a theta of its own."""
    assert len({batch_key(member) for member in members}) == 1 and batch_key(members[0]) is not None
    thetas = [(1.0 + 0.1 * k) * somewhere(member.blocks, member.network) for k, member in enumerate(members)]
    batch, Theta = Batch(members), torch.stack(thetas)
    U = torch.randn(len(members), members[0].rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = {kind: getattr(batch, kind)(Theta) for kind in ("value", "residuals", "gradient", "jacobian", "normal")}
    together["pullback"] = batch.pullback(Theta, U)
    *normal, J = batch.normal_and_jacobian(Theta)
    for found, expected in zip((*normal, J), (*together["normal"], together["jacobian"][1]), strict=True):
        close(found, expected, tolerance)
    for k, (member, theta) in enumerate(zip(like or members, thetas, strict=True)):
        for kind, found in together.items():
            alone = getattr(member, kind)(theta, *([U[k]] if kind == "pullback" else []))
            for ours, expected in zip(found, alone if isinstance(alone, tuple) else (alone,), strict=True):
                expected = torch.as_tensor(expected, dtype=torch.float64)
                close(ours[k].double(), expected, tolerance)


def shifted(member: Objective) -> Objective:
    """The same at other points, where a condition has none of its own."""
    fixed = {name for name, _, condition in member.problem.terms() if condition and condition.points is not None}
    points = {
        name: sets if name in fixed else tuple(p.flip(0) * 0.9 for p in sets) for name, sets in member.points.items()
    }
    return member.with_points(points)


@pytest.mark.parametrize("kind", ADAPTED)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_batch_gives_what_each_gives_alone(problem, kind):
    first = objective(problem, trained(problem, kind), n=9)
    agree([first, shifted(first), objective(problem, trained(problem, kind, seed=5), n=9)])


def test_coefficients_may_differ_and_stand_in_any_order():
    problems = [Burgers(nu=nu, form="soft") for nu in (0.1, 0.02, 0.1, 0.05, 0.02)]
    agree([objective(p, trained(p, "biases_output", seed=k), n=9) for k, p in enumerate(problems)])


@pytest.mark.parametrize("name", ["modified_mlp", "pirate_net"])
def test_networks_with_gates_and_connections(name):
    problem = Schroedinger()
    shape = {"fields": 2, "width": 6, "depth": 3, "periodic": problem.periodic}
    networks = [pl.training.build_network(name, problem.domain, **shape, seed=k) for k in range(2)]
    agree([objective(problem, network, n=9) for network in networks])


def test_more_points_than_one_chunk_and_compiled(monkeypatch):
    """Two compiled chunks of one length, of which the second ends in copies of its last point."""
    monkeypatch.setattr(objective_module, "points_together", lambda *sizes: 64)
    problem = Burgers(nu=0.05, form="ansatz")
    networks = [trained(problem, "balanced", depth=2, seed=k) for k in range(3)]
    points = [first_points(problem, 120, seed=k) for k in range(3)]
    plain, compiled = (
        [Objective(problem, n, Blocks(n), p, compile=c) for n, p in zip(networks, points, strict=True)]
        for c in (False, True)
    )
    assert len(plain[0].chunks) == 2
    agree(plain)
    agree(compiled, like=plain)


def compiled_anew(monkeypatch) -> list:
    """The functions that are compiled, each as often as it is: nothing is known at first, and compiling takes no time."""
    found = []

    def compile(function, tensors):
        found.append(function)
        return function

    monkeypatch.setattr(compiling, "_kernels", {})
    monkeypatch.setattr(compiling, "_compile", compile)
    return found


def test_another_batch_of_the_same_shape_compiles_nothing(monkeypatch):
    """Other networks at other points and another coefficient; one of fewer members is another shape."""
    found = compiled_anew(monkeypatch)

    def ask(nu: float, seeds: range) -> int:
        problem, before = Burgers(nu=nu, form="ansatz"), len(found)
        networks = [trained(problem, "balanced", depth=2, seed=k) for k in seeds]
        points = [first_points(problem, 256, seed=k) for k in seeds]
        members = [Objective(problem, n, Blocks(n), p, compile=True) for n, p in zip(networks, points, strict=True)]
        Theta = torch.stack([somewhere(member.blocks, member.network) for member in members])
        batch = Batch(members)
        batch.gradient(Theta), batch.normal(Theta)
        return len(found) - before

    assert ask(0.05, range(3)) == 3  # forward, gradients, adjoints
    assert ask(0.1, range(5, 8)) == 0
    assert ask(0.1, range(5, 7)) == 3


@pytest.mark.parametrize("compile", [False, True])
def test_what_is_kept_of_passes_is_bounded_and_holds_no_network(compile, monkeypatch):
    compiled_anew(monkeypatch)
    problem = Burgers(nu=0.05, form="ansatz")
    networks = [trained(problem, "balanced", depth=2, seed=k) for k in range(2)]
    members = [Objective(problem, n, Blocks(n), first_points(problem, 256, seed=1), compile=compile) for n in networks]
    batch = Batch(members)
    batch.gradient(torch.stack([somewhere(member.blocks, member.network) for member in members]))
    alive = [weakref.ref(kept) for kept in (*networks, batch)]
    kept = batched_passes, Passes.compiled
    assert all(0 < cache.cache_info().currsize <= cache.cache_parameters()["maxsize"] for cache in kept[: 1 + compile])
    del networks, members, batch
    gc.collect()
    assert [ref() for ref in alive] == [None, None, None]


def test_single_precision_stays_single():
    problem = Burgers(nu=0.05, form="soft")
    members = [objective(problem, trained(problem, "balanced", seed=k).float(), n=20) for k in range(2)]
    agree(members, 1e-4)  # a sum of some hundred numbers in float32
    thetas = torch.stack([member.blocks.read(member.network) for member in members])
    batch = Batch(members)
    assert batch.gradient(thetas)[1].dtype == batch.residuals(thetas)[0].dtype == torch.float32
    assert batch.normal(thetas)[2].dtype == torch.float64


def test_what_has_another_shape_has_another_key():
    problem = Burgers(nu=0.05, form="soft")
    network = trained(problem, "balanced")
    first = objective(problem, network, n=9)
    blocks = Blocks(network)
    others = [
        objective(problem, network, n=10),
        objective(problem, trained(problem, "hidden", width=7), n=9),
        objective(problem, trained(problem, "biases_output"), n=9),
        objective(problem, pl.adapt(mlp(problem), rank=2, initializer="balanced", scale=0.5), n=9),
        objective(problem, trained(problem, "balanced").float(), n=9),
        Objective(problem, network, blocks, first.points, {"residual": 3.0}),
    ]
    assert all(batch_key(other) != batch_key(first) for other in others)
    alone = [
        objective(problem, network, engine="functional", n=9),
        objective(problem, mlp(problem, factorised=True), n=9),
    ]
    assert all(batch_key(other) is None for other in alone)


@pytest.mark.parametrize("kind", range(len(doubtful(1.0))), ids=[type(p).__name__ for p in doubtful(1.0)])
def test_coefficients_that_equality_overlooks_are_each_its_own(kind):
    members = [objective(doubtful(c)[kind], trained(doubtful(c)[kind], "balanced"), n=9) for c in (1.0, 3.0)]
    keys = {batch_key(member) for member in members}
    if keys != {None}:
        agree(members)


def test_problems_that_equality_does_not_tell_apart_are_not_batched():
    problem = HiddenField(3.0)
    assert problem == HiddenField(1.0)
    assert batch_key(objective(problem, mlp(problem), n=9)) is None


def test_a_loss_that_is_not_finite_is_its_own_members():
    problem = Burgers(nu=1.0 / math.pi, form="soft")
    members = [objective(problem, trained(problem, "balanced", seed=k), n=9) for k in range(2)]
    thetas = [somewhere(member.blocks, member.network) for member in members]
    thetas[0] = torch.full_like(thetas[0], torch.nan)
    f, g = Batch(members).gradient(torch.stack(thetas))
    assert f[0].isnan() and g[0].isnan().any()
    close(g[1], members[1].gradient(thetas[1])[1])
