"""Metrics: Adafactor against its formula written out, its history, and the energies it learns from."""

import pytest
import torch
from lift_oracles import SHAPES, pair_and_gradients, product_jacobian
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import catalog, metrics
from pinn_lora.flow import Flow, WeightGradient, tangent_energies
from pinn_lora.lifts.weighted import Weighted
from pinn_lora.lora import Blocks, merge
from pinn_lora.metrics import Energies, Metric
from pinn_lora.metrics.adafactor import Adafactor
from pinn_lora.points import first_points

METRICS = catalog.names(metrics)


def gradients(count: int, shape=(5, 4)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.linspace(0.1, 3.0, shape[0], dtype=torch.float64)[:, None]
    return [rows * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def energies(G: torch.Tensor) -> Energies:
    return Energies(G.square().sum(1), G.square().sum(0))


def learnt(metric: Metric, found: list[torch.Tensor]):
    history = None
    for count, G in enumerate(found, start=1):
        history = metric.observe(history, count, energies(G))
    m, n = found[0].shape
    return metric.weights(history, len(found), torch.zeros(m, 2).double(), torch.zeros(2, n).double())


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_positive_and_of_the_layers_shape_before_and_after_it_learns(name):
    metric = catalog.build(metrics, Metric, name)
    B, A = torch.ones(5, 2).double(), torch.ones(2, 4).double()
    for P, Q in (
        metric.weights(None, 0, B, A),
        learnt(metric, gradients(3)) if metric.learns else metric.weights(None, 0, B, A),
    ):
        assert (P.shape, Q.shape) == ((5,), (4,))
        assert (P > 0).all()
        assert (Q > 0).all()
        assert P.dtype == Q.dtype == torch.float64


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_adafactor_is_the_square_root_of_the_rank_one_second_moment(beta):
    """P_i Q_j = sqrt(R_i C_j / sum R) with bias-corrected averages, written out."""
    found = gradients(4)
    weights = [(1 - beta) * beta ** (3 - k) / (1 - beta**4) for k in range(4)]
    V = sum(w * G.square() for w, G in zip(weights, found, strict=True))
    expected = (V.sum(1)[:, None] * V.sum(0) / V.sum()).sqrt()
    P, Q = learnt(Adafactor(beta=beta, eps=1e-12), found)
    torch.testing.assert_close(torch.outer(P, Q), expected, rtol=1e-9, atol=0)


def test_adafactor_of_a_constant_gradient_of_rank_one_is_its_absolute_value():
    u, v = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([3.0, 1.0]).double()
    P, Q = learnt(Adafactor(eps=1e-14), [torch.outer(u, v)] * 5)
    torch.testing.assert_close(torch.outer(P, Q), torch.outer(u, v).abs(), rtol=1e-9, atol=0)


def test_a_row_without_a_gradient_stays_finite_and_a_zero_gradient_is_the_identity():
    G = gradients(1)[0]
    G[2] = 0.0
    P, Q = learnt(Adafactor(), [G])
    assert (1.0 / P).isfinite().all()
    assert P[2] == P.min() > 1e-5 * P.max()
    P, Q = learnt(Adafactor(), [torch.zeros(5, 4).double()])
    assert torch.equal(P, torch.ones(5).double())
    assert torch.equal(Q, torch.ones(4).double())


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tangent_energies_are_those_of_the_projected_gradient(shape, scale):
    """Of P_T G = J J^+ G, formed whole. To 1e-5: the lift there is damped by 1e-8 of the factors' size."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    J = product_jacobian(pair)
    projected = (J @ torch.linalg.pinv(J, rtol=1e-12) @ G.reshape(-1)).view_as(G)
    rows, columns = tangent_energies(pair, gB, gA)
    torch.testing.assert_close(rows, projected.square().sum(1), rtol=1e-5, atol=1e-5 * float(rows.max()))
    torch.testing.assert_close(columns, projected.square().sum(0), rtol=1e-5, atol=1e-5 * float(columns.max()))


def adapted_objective(**options) -> pl.Objective:
    problem = Burgers(nu=0.1)
    network = pl.MLP(problem.domain, width=5, depth=3, periodic=problem.periodic, seed=3)
    adapted = pl.adapt(network, rank=2, initializer="balanced", scale=0.5, **options)
    return pl.Objective(problem, adapted, Blocks(adapted), first_points(problem, 64, seed=1))


@pytest.mark.parametrize("train_biases", [False, True])
def test_the_dense_gradient_gives_the_factors_and_is_that_of_the_merged_network(train_biases):
    objective = adapted_objective(train_biases=train_biases, train_output=train_biases)
    theta = objective.blocks.read(objective.network)
    theta = theta + 0.1 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(1), dtype=theta.dtype)
    f, g, dense = WeightGradient(objective)(theta)
    expected_f, expected_g = objective.gradient(theta)
    assert f == pytest.approx(expected_f, rel=1e-12)
    torch.testing.assert_close(g, expected_g, rtol=1e-10, atol=1e-12)
    objective.blocks.write(objective.network, theta)
    merged = merge(objective.network)
    whole = pl.Objective(objective.problem, merged, Blocks(merged), objective.points)
    _, G = whole.gradient(whole.blocks.read(merged))
    places = {block.name: block for block in whole.blocks.blocks}
    assert sorted(dense) == sorted(block.name for block in objective.blocks.pairs)
    for name, D in dense.items():
        place = places[f"{name}.weight"]
        torch.testing.assert_close(D.reshape(-1), G[place.slice], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("source", ["factors", "dense"])
def test_history_changes_between_steps_only_and_a_gradient_is_taken_once(source):
    objective = adapted_objective()
    flow = Flow(objective, Weighted(), Adafactor(source=source))
    theta = objective.blocks.read(objective.network)
    flow.observe(theta)
    assert objective.work.gradients == 1
    first = flow.velocity(theta)[1]
    assert objective.work.gradients == 1  # the one that was observed
    flow.velocity(theta + 1e-3)
    flow.observe(theta)
    assert flow.learned.count == 1
    assert torch.equal(flow.velocity(theta)[1], first)
    flow.observe(theta + 1e-3)
    assert flow.learned.count == 2
    assert not torch.equal(flow.velocity(theta)[1], first)


def test_the_history_outlives_new_points():
    objective = adapted_objective()
    run = pl.Method({"name": "adafactor"}, "weighted", "heun").start(
        objective.blocks, objective.blocks.read(objective.network), step_size=1e-5, max_steps=4
    )
    theta = objective.blocks.read(objective.network)
    theta = run.step(objective, theta).theta
    run.step(objective.with_points(first_points(objective.problem, 64, seed=9)), theta)
    assert run.flows.learned.count == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "weights"}, r"no source of adafactor 'weights' \(choices: factors, dense\)"),
        ({"beta": 1.0}, r"adafactor: beta is 1.0; it must be at least 0 and below 1"),
        ({"eps": 0.0}, r"adafactor: eps is 0.0; it must be above 0 and finite"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Adafactor(**options)
