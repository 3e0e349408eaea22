"""Jets with their hand-derived adjoint, torch.func, and nested autograd written out here: three ways to the same numbers."""

import math

import pytest
import torch
from small_problems import ADAPTED, BOX, PROBLEMS, mlp, objective, somewhere, trained
from torch import nn
from torch.func import functional_call

import pinn_lora as pl
from pinn_lora.fields import Coordinates, Field, components
from pinn_lora.jets import summed
from pinn_lora.problem import Condition, Problem


def by_nested_autograd(found: pl.Objective, theta: torch.Tensor):
    """R (N,) and J (N, P), with every derivative by autograd of autograd, term by term, as the loss is defined."""
    problem, theta = found.problem, theta.clone().requires_grad_()
    parameters = found.blocks.parameters(theta)

    def fields(points, indices):
        rows = []
        for index in indices:
            x = points.clone().requires_grad_()
            columns = problem.solution(x, lambda inputs: functional_call(found.network, parameters, (inputs,)))
            taken = []
            for column in columns:
                parts = []
                for part in summed(index):
                    derived = column
                    for number in part:
                        (gradient,) = torch.autograd.grad(derived.sum(), x, create_graph=True)
                        derived = gradient[:, number]
                    parts.append(derived)
                taken.append(sum(parts))
            rows.append(torch.stack(taken))
        stacked = torch.stack(rows)
        return [Field(stacked[:, k], indices, problem.domain.names) for k in range(stacked.shape[1])]

    parts = []
    for name, operator, condition in problem.terms():
        sets = found.points[name]
        paired = bool(condition and condition.paired)
        asked = {"points": condition.points} if condition and condition.points is not None else {}
        indices = problem.needed(operator, paired=paired, **asked)
        seen = [(Coordinates.of(x, problem.domain), *fields(x, indices)) for x in sets]
        for r in components(operator(*seen) if paired else operator(*seen[0])):
            parts.append(math.sqrt(found.weights[name] / len(sets[0])) * r)
    R = torch.cat(parts)
    rows = [torch.autograd.grad(r, theta, retain_graph=True)[0] for r in R]
    return R.detach(), torch.stack(rows)


def close(found, expected, tolerance=1e-10):
    """The bar: 1e-10 of the size of the whole, in float64."""
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()
    assert expected.norm() > 0


def sorted_rows(R: torch.Tensor, J: torch.Tensor):
    """Rows in an order of their own: a chunk may stack its components in another order than a term."""
    order = torch.argsort((torch.cat([R[:, None], J], dim=1) * torch.linspace(1, 2, J.shape[1] + 1)).sum(1))
    return R[order], J[order]


@pytest.mark.parametrize("kind", ADAPTED)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_the_two_engines_agree(problem, kind):
    network = trained(problem, kind)
    jets, functional = (objective(problem, network, engine) for engine in ("jets", "functional"))
    theta = somewhere(jets.blocks, network)
    close(jets.residuals(theta), functional.residuals(theta))
    assert jets.value(theta) == pytest.approx(functional.value(theta), rel=1e-12)
    (f, g), (f2, g2) = jets.gradient(theta), functional.gradient(theta)
    assert f == pytest.approx(f2, rel=1e-12)
    close(g, g2)
    for found, expected in zip(jets.jacobian(theta), functional.jacobian(theta), strict=True):
        close(found, expected)
    for found, expected in zip(jets.gauss_newton(theta)[1:], functional.gauss_newton(theta)[1:], strict=True):
        close(found, expected)
    close(jets.pointwise(theta), functional.pointwise(theta))
    assert jets.term_norms(theta) == pytest.approx(functional.term_norms(theta), rel=1e-11)


@pytest.mark.parametrize("engine", ["jets", "functional"])
@pytest.mark.parametrize("kind", ["whole", "biases_output"])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_both_are_the_definition_by_nested_autograd(problem, kind, engine):
    network = trained(problem, kind, width=4, depth=2)
    found = objective(problem, network, engine, n=8)
    theta = somewhere(found.blocks, network)
    R, J = by_nested_autograd(found, theta)
    for a, b in zip(sorted_rows(*found.jacobian(theta)), sorted_rows(R, J), strict=True):
        close(a, b)
    assert found.value(theta) == pytest.approx(R.square().sum().item(), rel=1e-12)
    close(found.gradient(theta)[1], 2.0 * J.T @ R)


@pytest.mark.parametrize("activation", ["tanh", "sin"])
def test_engines_agree_for_every_activation(activation):
    problem = PROBLEMS["system"]
    network = trained(problem, "biases_output", activation=activation)
    jets, functional = (objective(problem, network, engine) for engine in ("jets", "functional"))
    theta = somewhere(jets.blocks, network)
    close(jets.gradient(theta)[1], functional.gradient(theta)[1])
    close(jets.jacobian(theta)[1], functional.jacobian(theta)[1])


def plain(d: int, fields: int) -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Linear(d, 6), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Softplus(), nn.Linear(6, fields))
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "problem", [PROBLEMS["soft"], PROBLEMS["system"], PROBLEMS["periodic"]], ids=lambda p: type(p).__name__
)
def test_any_module_goes_through_the_functional_engine(problem, adapted):
    network = plain(2, len(problem.fields))
    if adapted:
        network = pl.adapt(network, rank=2, initializer="balanced", train_biases=True)
    found = objective(problem, network, n=8)
    theta = somewhere(found.blocks, network)
    for a, b in zip(sorted_rows(*found.jacobian(theta)), sorted_rows(*by_nested_autograd(found, theta)), strict=True):
        close(a, b)
    R, J = found.jacobian(theta)
    close(found.gradient(theta)[1], 2.0 * J.T @ R)


def test_an_mlp_written_with_plain_torch_gives_the_same_numbers():
    """Jets through our network, torch.func through the same layers in a Sequential."""
    problem = PROBLEMS["soft"]
    ours = pl.MLP(problem.domain, width=5, depth=2, seed=7)

    class Scaled(nn.Module):
        def forward(self, points):
            return torch.stack([points[:, 0], 2.0 * points[:, 1] - 1.0], dim=1)

    modules = [Scaled()]
    for layer in ours.layers:
        modules += [layer, nn.Tanh()]
    theirs = nn.Sequential(*modules[:-1])
    jets, functional = objective(problem, ours), objective(problem, theirs)
    theta = somewhere(jets.blocks, ours)
    close(jets.gradient(theta)[1], functional.gradient(theta)[1])
    close(jets.jacobian(theta)[1], functional.jacobian(theta)[1])


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_a_term_may_ask_for_no_derivative_or_not_see_the_network(engine):
    """u = 0 as a bare field; and a tuple with a component that holds whatever the network says."""

    class Bare(Problem):
        domain = BOX

        def residual(self, p, u):
            return u

        def conditions(self):
            return [Condition("known", lambda p, u: (u - 1.0, p.x * 0.5), faces=(("x", "lower"),))]

    network = mlp(Bare(), width=3, depth=1)
    found = objective(Bare(), network, engine, n=9)
    theta = somewhere(found.blocks, network)
    f, g = found.gradient(theta)
    R, J = found.jacobian(theta)
    assert f == pytest.approx(R.square().sum().item(), rel=1e-12)
    close(g, 2.0 * J.T @ R)


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_engines_move_nothing(engine):
    """theta, the network and the gradient mode are as they were."""
    problem = PROBLEMS["soft"]
    network = trained(problem, "biases_output")
    found = objective(problem, network, engine)
    theta = somewhere(found.blocks, network)
    before, held = theta.clone(), {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        inside = found.gradient(theta)[1]
    outside = found.gradient(theta)[1]
    found.jacobian(theta)
    assert torch.equal(inside, outside)
    assert torch.equal(theta, before)
    assert not theta.requires_grad
    assert torch.is_grad_enabled()
    assert all(torch.equal(network.state_dict()[name], value) for name, value in held.items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_single_precision_is_double_precision_rounded(engine):
    """To 1e-4: second derivatives of a float32 network."""
    problem = PROBLEMS["soft"]
    network = trained(problem, "balanced")
    double = objective(problem, network, engine)
    theta = somewhere(double.blocks, network)
    single = objective(problem, trained(problem, "balanced").float(), engine)
    g = single.gradient(theta.float())[1]
    assert g.dtype == torch.float32
    close(g.double(), double.gradient(theta)[1], 1e-4)
    R, J = single.jacobian(theta.float())
    assert R.dtype == J.dtype == torch.float64
    close(J, double.jacobian(theta)[1], 1e-4)
