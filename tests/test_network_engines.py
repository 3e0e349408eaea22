"""Every network's residuals, gradients and Jacobians by jets, against torch.func through its own forward."""

import math

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.kdv import KdV
from pinn_lora.problems.kovasznay import Kovasznay
from pinn_lora.problems.kuramoto_sivashinsky import KuramotoSivashinsky

import pinn_lora as pl
from pinn_lora import compiling, networks
from pinn_lora import objective as objective_module
from pinn_lora.activations import ACTIVATIONS
from pinn_lora.catalog import find, names
from pinn_lora.lora import Blocks, DenseBlock, PairBlock
from pinn_lora.networks import Network
from pinn_lora.points import first_points

NETWORKS = {name: find(networks, Network, name) for name in names(networks)}
PROBLEMS = [Burgers(nu=0.05, form="soft"), KdV(form="ansatz"), KuramotoSivashinsky(form="soft"), Kovasznay(form="soft")]
KINDS = {
    "whole": ({}, None),
    "factorised": ({"factorised": True, "fourier": 2, "fourier_scale": 1.5}, None),
    "factors": ({"fourier": 2}, {"initializer": "balanced", "scale": 1.7}),
    "all": ({}, {"initializer": "balanced", "targets": "all", "rank": 1, "train_biases": True}),
    "output": ({"factorised": True}, {"initializer": "balanced", "train_biases": True, "train_output": True}),
}
TOLERANCE = 1e-10  # of the size of the whole, in float64: two ways to the same sums of some hundred products


def network_of(
    name: str, problem: pl.Problem, kind: str, *, activation: str = "tanh", depth: int = 2
) -> torch.nn.Module:
    """A small network with biases and residual connections that are not zero."""
    options, adapter = KINDS[kind]
    shape = {"fields": len(problem.fields), "width": 4, "depth": depth, "periodic": problem.periodic, "seed": 2}
    network = NETWORKS[name](problem.domain, **shape, **options, activation=activation)
    with torch.no_grad():
        for key, value in network.named_parameters():
            if key == "alpha" or key.endswith("bias"):
                value.copy_(torch.linspace(0.2, 0.7, len(value), dtype=value.dtype))
    return network if adapter is None else pl.adapt(network, **{"rank": 2, **adapter})


def objective_of(problem: pl.Problem, network: torch.nn.Module, n: int = 7, **options):
    blocks = Blocks(network)
    weights = {name: 1.0 + i for i, (name, _, _) in enumerate(problem.terms())}
    return pl.Objective(problem, network, blocks, first_points(problem, n, seed=3), weights, **options)


def somewhere(blocks: Blocks, network: torch.nn.Module) -> torch.Tensor:
    theta = blocks.read(network)
    return theta + 0.2 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(4), dtype=theta.dtype)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape
    assert expected.norm() > 0
    assert (found - expected).norm() <= tolerance * expected.norm()


def check(problem: pl.Problem, network: torch.nn.Module) -> None:
    """Residuals, Jacobian block by block, and the gradient as 2 J^T R of the other engine."""
    jets, functional = (objective_of(problem, network, engine=engine) for engine in ("jets", "functional"))
    theta = somewhere(jets.blocks, network)
    (R, J), (R2, J2) = jets.jacobian(theta), functional.jacobian(theta)
    close(R, R2)
    for block in jets.blocks.blocks:  # the last bias has no part in a residual of derivatives alone
        small = J2.norm() * 1e-3
        assert (J[:, block.slice] - J2[:, block.slice]).norm() <= TOLERANCE * max(J2[:, block.slice].norm(), small)
    f, g = jets.gradient(theta)
    assert f == pytest.approx(float(R2 @ R2), rel=1e-12)
    close(g, 2.0 * J2.T @ R2)
    close(jets.residuals(theta), R2)
    tangent, (u, v) = jets.linearize(theta, room=1.0), (torch.linspace(-1.0, 2.0, n, dtype=R.dtype) for n in J.shape)
    close(tangent.forward(v), J @ v)
    close(tangent.adjoint(u), J.T @ u)
    close(jets.pullback(theta, u), J.T @ u)


@pytest.fixture(autouse=True)
def differentiable_swish(monkeypatch):
    """torch's silu has no nested forward-mode derivative, which the functional engine asks for."""
    swish = ACTIVATIONS["swish"]._replace(function=lambda u: u * torch.sigmoid(u))
    monkeypatch.setitem(ACTIVATIONS, "swish", swish)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_engines_agree_for_every_choice_of_what_is_trained(name, kind):
    check(PROBLEMS[0], network_of(name, PROBLEMS[0], kind))


@pytest.mark.parametrize("kind", ["factorised", "factors", "all"])  # all weights, factors alone, factors and biases
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "tanh"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_engines_agree_for_every_activation(name, activation, kind):
    check(PROBLEMS[0], network_of(name, PROBLEMS[0], kind, activation=activation))


@pytest.mark.parametrize("kind", ["factorised", "all"])
@pytest.mark.parametrize("problem", PROBLEMS[1:], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_engines_agree_up_to_fourth_derivatives(name, problem, kind):
    check(problem, network_of(name, problem, kind))


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_that_a_network_owns_is_a_block(name):
    """alpha, V, s and biases in pretraining; pairs alone in adaptation."""
    problem = PROBLEMS[0]
    network = network_of(name, problem, "factorised")
    found = {block.name for block in Blocks(network).blocks}
    layers = {f"layers.{i}.{key}" for i in range(len(network.layers)) for key in ("V", "s", "bias")}
    assert found == layers | ({"alpha"} if network.alpha is not None else set())
    adapted = Blocks(network_of(name, problem, "factors")).blocks
    assert {block.name for block in adapted} == set(network.hidden_layers)
    assert all(isinstance(block, PairBlock) for block in adapted)
    assert {type(block) for block in Blocks(network).blocks} == {DenseBlock}


@pytest.mark.parametrize(("name", "kind"), [*((name, "factorised") for name in NETWORKS), ("pirate_net", "all")])
def test_traced_passes_are_the_plain_ones(name, kind, monkeypatch):
    """What is handed to the compiler: pure functions of tensors in a flat list, here run as they were traced."""
    monkeypatch.setattr(objective_module, "points_together", lambda *sizes: 64)
    traced = []

    def trace(function, tensors, *, mode="real"):
        from torch.fx.experimental.proxy_tensor import make_fx

        with torch.no_grad():
            traced.append(make_fx(function)(*tensors))
        return traced[-1]

    monkeypatch.setattr(compiling, "_kernels", {})
    monkeypatch.setattr(compiling, "_compile", trace)
    problem = Burgers(nu=0.05, form="ansatz")
    network = network_of(name, problem, kind, depth=1)
    plain, compiled = (
        objective_of(problem, network, n=61, compile=c) for c in (False, True)
    )  # three points are padding
    theta = somewhere(plain.blocks, network)
    close(compiled.gradient(theta)[1], plain.gradient(theta)[1])
    close(compiled.jacobian(theta)[1], plain.jacobian(theta)[1])
    assert len(traced) == 4  # forward, the squares of the residual, gradients and adjoints
    assert compiling.can_compile()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_is_plain(name, monkeypatch):
    monkeypatch.setattr(objective_module, "points_together", lambda *sizes: 64)
    problem = Burgers(nu=0.05, form="ansatz")
    network = network_of(name, problem, "factorised")
    plain, compiled = (objective_of(problem, network, n=64, compile=c) for c in (False, True))
    theta, kernels = somewhere(plain.blocks, network), len(compiling._kernels)
    close(compiled.gradient(theta)[1], plain.gradient(theta)[1])
    close(compiled.jacobian(theta)[1], plain.jacobian(theta)[1])
    assert len(compiling._kernels) - kernels in (3, 4)  # the residual's squares are the same for every network


@pytest.mark.parametrize("kind", ["factorised", "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_is_double_precision_rounded(name, kind):
    """To 1e-4: second derivatives of a float32 network, whose jets lie in memory another way."""
    problem = Burgers(nu=0.05, form="ansatz")
    network = network_of(name, problem, kind)
    double = objective_of(problem, network, n=40)
    theta = somewhere(double.blocks, network)
    single = objective_of(problem, network_of(name, problem, kind).float(), n=40)
    g = single.gradient(theta.float())[1]
    assert g.dtype == torch.float32
    close(g.double(), double.gradient(theta)[1], 1e-4)
    close(single.jacobian(theta.float())[1], double.jacobian(theta)[1], 1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_paired_condition_sees_both_of_its_point_sets(name):
    """Soft periodic conditions: alpha's and s' derivatives at both ends are added up."""
    problem = Ring()
    check(problem, network_of(name, problem, "factorised"))


class Ring(pl.Problem):
    domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 0.5))

    def residual(self, p, u):
        return u.tt - math.pi * u.xx

    def conditions(self):
        return [pl.periodic(on="x", derivatives=2), pl.initial(lambda p: pl.sin(p.x))]
