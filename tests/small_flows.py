"""Small flows for the tests of integrators: a fit without a PDE, and Burgers; and how balance drifts along them."""

import math

import torch
from pinn_lora.problems.burgers import Burgers
from torch import nn
from torch.func import functional_call, jacrev

import pinn_lora as pl
from pinn_lora import catalog, lifts
from pinn_lora.flow import Flow
from pinn_lora.lifts import Lift
from pinn_lora.lora import Blocks
from pinn_lora.metrics.identity import Identity
from pinn_lora.objective import Objective, Work
from pinn_lora.points import first_points

LIFTS = catalog.names(lifts)
MASSED = [name for name in LIFTS if catalog.build(lifts, Lift, name).has_mass]


class Fit:
    """An objective without a PDE: f = |network(X) - Y|^2 over everything the network trains."""

    def __init__(self, network: nn.Module, *, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(11)
        self.network, self.blocks, self.work = network, Blocks(network), Work()
        self.X = torch.randn(40, 4, generator=generator, dtype=torch.float64)
        Y = torch.stack([torch.sin(self.X[:, 0] + self.X[:, 1]), self.X[:, 2] * self.X[:, 3]], dim=1)
        self.Y = 0.3 * (Y + noise * torch.randn(Y.shape, generator=generator, dtype=torch.float64))
        self.size, self.rows, self.max_memory, self.chunk_gib = self.blocks.size, self.Y.numel(), None, 0.0

    def residuals(self, theta):
        found = functional_call(self.network, self.blocks.parameters(theta), (self.X,))
        return (found - self.Y).reshape(-1) / math.sqrt(len(self.X))

    def value(self, theta):
        return float(self.residuals(theta).detach().square().sum())

    def gradient(self, theta):
        theta = theta.detach().clone().requires_grad_()
        value = self.residuals(theta).square().sum()
        return float(value.detach()), torch.autograd.grad(value, theta)[0]

    def jacobian(self, theta):
        return self.residuals(theta).detach(), jacrev(self.residuals)(theta).detach()

    def jacobian_rows(self, theta):
        self.work.jacobians += 1
        yield from self.jacobian(theta)[1].split(30)

    def normal(self, theta, kept=None):
        """Nothing is kept: what needs J makes it again."""
        self.work.jacobians += 1
        R, J = self.jacobian(theta)
        return R, 2.0 * J.T @ R, 2.0 * J.T @ J

    def pullback(self, theta, u):
        return self.jacobian(theta)[1].T @ u


def linear_network(*, scale=1.0, initializer="balanced", bias=False) -> nn.Module:
    torch.manual_seed(5)
    layers = (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    network = nn.Sequential(*layers).double()
    return pl.adapt(network, rank=2, targets="all", initializer=initializer, scale=scale, train_biases=bias, seed=2)


def fit_flow(lift="balanced", **options) -> tuple[Flow, torch.Tensor]:
    objective = Fit(linear_network(**options))
    return flow_of(objective, lift), objective.blocks.read(objective.network)


def flow_of(objective, lift="balanced") -> Flow:
    return Flow(objective, catalog.build(lifts, Lift, lift), Identity())


def burgers_flow(
    lift="balanced", *, initializer="balanced", form="ansatz", n=64, width=6, **options
) -> tuple[Flow, torch.Tensor]:
    problem = Burgers(nu=0.1, form=form)
    network = pl.MLP(problem.domain, width=width, depth=3, periodic=problem.periodic, seed=3)
    adapted = pl.adapt(network, rank=2, initializer=initializer, **options)
    objective = Objective(problem, adapted, Blocks(adapted), first_points(problem, n, seed=1))
    return flow_of(objective, lift), objective.blocks.read(adapted)


def factors(flow: Flow, theta: torch.Tensor):
    return [block.split(theta[block.slice]) for block in flow.objective.blocks.pairs]


def imbalances(flow: Flow, theta: torch.Tensor):
    return [B.T @ B - A @ A.T for B, A in factors(flow, theta)]


def assert_drift_is_of_second_order_in_the_step(flow, theta, taken):
    """B^T B - A A^T changes by exactly dB^T dB - dA dA^T: the first order, B^T dB - dA A^T and its transpose, is zero."""
    steps = factors(flow, taken.theta - theta)
    for before, after, (dB, dA) in zip(imbalances(flow, theta), imbalances(flow, taken.theta), steps, strict=True):
        expected = dB.T @ dB - dA @ dA.T
        assert expected.norm() > 1e-10
        assert (after - before - expected).norm() < 1e-9 * expected.norm() + 1e-14
