"""The objective: its definition, its derivatives, its weights, its count of work, and its sentences."""

import math
from dataclasses import replace

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_problems import Scattered, trained
from small_problems import objective as small
from test_engines import by_nested_autograd, close, sorted_rows
from torch import nn

import pinn_lora as pl
from pinn_lora.lora import Blocks
from pinn_lora.objective import Work, points_together, quarters
from pinn_lora.points import first_points

SOFT, ANSATZ = Burgers(nu=0.03, form="soft"), Burgers(nu=0.03, form="ansatz")


def network_of(problem, *, adapted=True, **options) -> nn.Module:
    network = pl.MLP(problem.domain, **{"width": 6, "depth": 2, "periodic": problem.periodic, "seed": 1, **options})
    return pl.adapt(network, rank=2, initializer="balanced", train_biases=True) if adapted else network


def objective(problem=SOFT, *, n=80, weights=None, engine=None, network=None, points=None) -> pl.Objective:
    network = network or network_of(problem)
    points = points or first_points(problem, n, seed=5)
    return pl.Objective(problem, network, Blocks(network), points, weights or {}, engine)


def start(found: pl.Objective) -> torch.Tensor:
    theta = found.blocks.read(found.network)
    return theta + 0.2 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


CASES = [(p, e) for p in (SOFT, ANSATZ) for e in ("jets", "functional")]


@pytest.mark.parametrize(("problem", "engine"), CASES, ids=str)
def test_value_gradient_and_gauss_newton_are_those_of_the_residual_vector(problem, engine):
    """f = |R|^2, g = 2 J^T R, H = 2 J^T J."""
    found = objective(problem, engine=engine, weights={"residual": 3.0})
    theta = start(found)
    R, J = found.jacobian(theta)
    f, g, H = found.gauss_newton(theta)
    assert R.shape == (len(J),)
    assert J.shape == (len(R), found.size)
    assert R.dtype == J.dtype == g.dtype == H.dtype == torch.float64
    torch.testing.assert_close(found.residuals(theta), R, rtol=1e-13, atol=1e-14)
    for value in (f, found.value(theta), found.gradient(theta)[0]):
        assert value == pytest.approx(R.square().sum().item(), rel=1e-13)
    for gradient in (g, found.gradient(theta)[1]):
        torch.testing.assert_close(gradient, 2.0 * J.T @ R, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(H, 2.0 * J.T @ J, rtol=1e-11, atol=1e-12)
    assert torch.linalg.eigvalsh(H)[0] > -1e-10 * H.norm()


@pytest.mark.parametrize(("problem", "engine"), CASES, ids=str)
def test_the_gradient_is_that_of_central_differences(problem, engine):
    """h = 1e-5: error h^2 and 1e-16 / h, so 1e-8 of the gradient."""
    found = objective(problem, engine=engine, weights={"residual": 3.0})
    theta, h = start(found), 1e-5
    _, g = found.gradient(theta)
    generator = torch.Generator().manual_seed(7)
    for _ in range(6):
        d = torch.randn(found.size, generator=generator, dtype=torch.float64)
        slope = (found.value(theta + h * d) - found.value(theta - h * d)) / (2 * h)
        assert abs(slope - float(g @ d)) < 1e-7 * float(g.norm() * d.norm())


@pytest.mark.parametrize(("problem", "engine"), CASES, ids=str)
def test_the_jacobian_is_that_of_central_differences(problem, engine):
    found = objective(problem, engine=engine)
    theta, h = start(found), 1e-5
    R, J = found.jacobian(theta)
    d = torch.randn(found.size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    slope = (found.jacobian(theta + h * d)[0] - found.jacobian(theta - h * d)[0]) / (2 * h)
    assert (slope - J @ d).norm() < 1e-7 * (J.norm() * d.norm())
    assert len(R) > 0


def test_the_value_is_the_weighted_sum_of_mean_squares():
    weights = {"initial": 100.0, "dirichlet": 0.5}
    found = objective(weights=weights)
    norms = found.term_norms(start(found))
    assert set(norms) == {"residual", "initial", "dirichlet"}
    expected = sum(weights.get(name, 1.0) * norm**2 for name, norm in norms.items())
    assert found.value(start(found)) == pytest.approx(expected, rel=1e-13)


def test_every_component_of_a_term_counts_by_itself():
    """A tuple of two equal components doubles the term, and its root mean square stays."""

    class Twice(Burgers):
        def residual(self, p, u):
            return (super().residual(p, u),) * 2

    once, twice = objective(ANSATZ), objective(Twice(nu=0.03))
    theta = start(once)
    assert twice.value(theta) == pytest.approx(2.0 * once.value(theta), rel=1e-13)
    assert twice.term_norms(theta) == pytest.approx(once.term_norms(theta), rel=1e-13)
    torch.testing.assert_close(twice.pointwise(theta), 2.0 * once.pointwise(theta))


def test_weights_are_linear_and_zero_leaves_a_term_out():
    plain, heavy, without = (objective(weights=w) for w in ({}, {"initial": 7.0}, {"initial": 0.0}))
    theta = start(plain)
    initial = plain.term_norms(theta)["initial"] ** 2
    assert heavy.value(theta) - plain.value(theta) == pytest.approx(6.0 * initial, rel=1e-10)
    assert plain.value(theta) - without.value(theta) == pytest.approx(initial, rel=1e-10)
    torch.testing.assert_close(
        heavy.gradient(theta)[1] - plain.gradient(theta)[1],
        6.0 * (plain.gradient(theta)[1] - without.gradient(theta)[1]),
        rtol=1e-9,
        atol=1e-11,
    )
    R, J = without.jacobian(theta)
    assert R.isfinite().all()
    assert J.isfinite().all()


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_many_points_are_the_mean_of_few(engine):
    """2,500 points, more than go through the network at once, against ten objectives of 250."""
    everything = {"residual": (ANSATZ.domain.sample(2500, seed=1),)}
    whole = objective(ANSATZ, points=everything, engine=engine)
    parts = [whole.with_points({"residual": (piece,)}) for piece in everything["residual"][0].split(250)]
    theta = start(whole)
    assert whole.value(theta) == pytest.approx(sum(part.value(theta) for part in parts) / 10, rel=1e-12)
    torch.testing.assert_close(
        whole.gradient(theta)[1], sum(part.gradient(theta)[1] for part in parts) / 10, rtol=1e-11, atol=1e-12
    )
    for found, expected in zip(
        whole.gauss_newton(theta), zip(*(part.gauss_newton(theta) for part in parts), strict=True), strict=True
    ):
        torch.testing.assert_close(
            torch.as_tensor(found, dtype=torch.float64),
            sum(torch.as_tensor(e, dtype=torch.float64) for e in expected) / 10,
            rtol=1e-10,
            atol=1e-11,
        )
    torch.testing.assert_close(whole.pointwise(theta), torch.cat([part.pointwise(theta) for part in parts]))
    R, J = whole.jacobian(theta)
    assert R.shape == (2500,)
    assert J.shape == (2500, whole.size)


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_data_in_parts_are_the_data_as_a_whole(engine):
    """Where memory asks for it, the points of operators that stand for all of theirs go through the network in parts."""
    problem = Scattered()
    network = trained(problem, "biases_output", width=4, depth=2)
    whole = small(problem, network, engine, n=8)
    parts = replace(whole, max_memory=5e-5)
    theta = start(whole)
    lengths = {
        name: [
            len(c.points[0] if engine == "functional" else c.at.points[0])
            for c, _ in parts.chunks
            if c.term.name == name
        ]
        for name in ("data", "pairs")
    }
    assert all(len(found) >= 2 for found in lengths.values())
    assert [c.term.among for c, _ in whole.chunks] == [None] * 4
    R, J = by_nested_autograd(whole, theta)
    for found, expected in zip(sorted_rows(*parts.jacobian(theta)), sorted_rows(R, J), strict=True):
        close(found, expected)
    assert parts.value(theta) == pytest.approx(R.square().sum().item(), rel=1e-12)
    close(parts.gradient(theta)[1], 2.0 * J.T @ R)
    close(parts.gauss_newton(theta)[2], 2.0 * J.T @ J)
    v = theta.flip(0)
    for room in (0.0, 1.0):
        close(parts.linearize(theta, room=room).normal(v), J.T @ (J @ v))
    close(parts.pullback(theta, parts.residuals(theta)), J.T @ R)
    assert parts.term_norms(theta) == pytest.approx(whole.term_norms(theta), rel=1e-12)
    assert parts.rows == whole.rows == len(R)


def test_pointwise_is_the_residual_in_the_order_of_the_points():
    found = objective(ANSATZ, n=3000)
    theta, order = start(found), torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    shuffled = found.with_points({"residual": (found.points["residual"][0][order],)})
    torch.testing.assert_close(shuffled.pointwise(theta), found.pointwise(theta)[order], rtol=1e-12, atol=1e-13)
    mean_square = found.pointwise(theta).square().mean().item()
    assert found.value(theta) == pytest.approx(mean_square, rel=1e-12)


def test_the_residuals_are_counted_once(monkeypatch):
    """Every implicit step asks how many there are, and counting them takes an evaluation."""
    found, seen = objective(), []
    evaluate = found.running.residuals
    monkeypatch.setattr(found.running, "residuals", lambda *given: seen.append(1) or evaluate(*given))
    first, made = found.rows, len(seen)
    assert found.rows == first == len(found.residuals(start(found))) and made > 0
    assert len(seen) == made + len(found.chunks)


def test_work_is_counted_by_kind():
    found = objective()
    theta = start(found)
    for call, kind in (
        (found.value, "residuals"),
        (found.residuals, "residuals"),
        (found.pointwise, "residuals"),
        (found.term_norms, "residuals"),
        (found.gradient, "gradients"),
        (found.jacobian, "jacobians"),
        (found.gauss_newton, "jacobians"),
    ):
        before = replace(found.work)
        call(theta)
        assert found.work == replace(before, **{kind: getattr(before, kind) + 1})


def test_other_points_count_in_the_same_place_and_another_objective_elsewhere():
    found = objective()
    theta = start(found)
    found.with_points(first_points(SOFT, 40, seed=9)).gradient(theta)
    assert found.work == Work(gradients=1)
    replace(found, work=Work()).gradient(theta)
    assert found.work == Work(gradients=1)
    assert objective().work == Work()


def test_other_points_are_other_points():
    found = objective()
    theta, other = start(found), first_points(SOFT, 40, seed=9)
    assert found.with_points(other).value(theta) == objective(points=other).value(theta)
    assert found.with_points(other).value(theta) != found.value(theta)


def test_the_same_numbers_every_time():
    first, again = objective(n=1500), objective(n=1500)
    theta = start(first)
    assert first.value(theta) == again.value(theta)
    assert torch.equal(first.gradient(theta)[1], again.gradient(theta)[1])
    assert torch.equal(first.gauss_newton(theta)[2], again.gauss_newton(theta)[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: objective(weights={"initail": 1.0}), "no weighted term 'initail'; did you mean 'initial'"),
        (lambda: objective(ANSATZ, weights={"initial": 1.0}), r"no weighted term 'initial' \(choices: residual\)"),
        (
            lambda: objective(weights={"initial": -1.0}),
            "the weight of initial is -1.0; it must be a finite number, at le",
        ),
        (lambda: objective(weights={"initial": math.nan}), "the weight of initial is nan"),
        (lambda: objective(engine="jet"), r"no engine 'jet'; did you mean 'jets'\? \(choices: jets, functional\)"),
        (
            lambda: objective(engine="jets", network=nn.Sequential(nn.Linear(2, 1)).double()),
            r"engine='jets' needs a network of pinn_lora, not a Sequential; use 'functional'",
        ),
        (
            lambda: objective(points={"residual": (SOFT.domain.sample(5),)}),
            r"no points .*initial",
        ),
    ],
)
def test_bad_input_gives_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_network_of_another_width_than_the_coordinates_or_fields_is_refused():
    with pytest.raises((ValueError, RuntimeError)):
        wrong = objective(network=nn.Sequential(nn.Linear(3, 1)).double())
        wrong.value(start(wrong))


def test_points_that_go_together_fit_a_cache_and_leave_no_short_rest():
    """1 MiB of one layer's jets by width and type, between two numbers of points; and the parts of any number of quarters."""
    found = [points_together(4, width, size) for size in (4, 8) for width in (24, 32, 64, 128)]
    assert found == [2048, 2048, 1024, 512, 1024, 1024, 512, 512]
    assert points_together(1, 8, 4) == 2048 and points_together(13, 256, 8) == 512
    assert [quarters(n) for n in (1, 3, 5, 6, 10, 11, 14, 15)] == [
        [1], [4], [5], [4, 2], [5, 5], [4, 4, 4], [5, 5, 4], [5, 5, 5]
    ]  # fmt: skip
    assert all(n <= sum(quarters(n)) <= n + (n % 4 == 3) for n in range(1, 99))
