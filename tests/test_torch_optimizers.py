"""Optimizers that torch or pytorch-optimizer hold: step by step what those give when they are used directly, and what a lift
in front of their moments does."""

import math

import pytest
import pytorch_optimizer
import torch
from small_objective import assert_close, dense, objective_of, started

from pinn_lora import catalog, lifts, optimizers
from pinn_lora.flow import Flow
from pinn_lora.lifts import Lift
from pinn_lora.metrics.identity import Identity
from pinn_lora.optimizers import Optimizer

STEPS = 12


def build(name, **options) -> Optimizer:
    return catalog.build(optimizers, Optimizer, {"name": name, **options})


class Direct:
    """The tensors of theta as parameters, moved by a torch optimizer that the test makes itself."""

    def __init__(self, objective, theta, make, *, lift="chain_rule") -> None:
        self.objective, self.blocks = objective, objective.blocks
        self.lift = catalog.build(lifts, Lift, lift)
        self.tensors = [torch.nn.Parameter(t.clone()) for b in self.blocks.blocks for t in b.split(theta[b.slice])]
        self.torch = make(self.tensors)

    @property
    def theta(self) -> torch.Tensor:
        return torch.cat([t.detach().reshape(-1) for t in self.tensors])

    def step(self) -> None:
        theta, gradients = self.theta, []
        g = -Flow(self.objective, self.lift, Identity()).velocity(theta)[1]
        for block in self.blocks.blocks:
            gradients += block.split(g[block.slice])
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = gradient.clone()
        for optimizer in self.torch:
            optimizer.step()


def assert_same_path(rule, make, *, lift="chain_rule", step_size=1e-2, tolerance=1e-12, **options):
    objective = objective_of(**options)
    run, theta = started(rule, objective, step_size=step_size, max_steps=STEPS)
    direct = Direct(objective, theta, make, lift=lift)
    start = theta
    for _ in range(STEPS):
        theta = run.step(objective, theta).theta
        direct.step()
        assert_close(theta, direct.theta, tolerance)
    assert (theta - start).norm() > 1e-4


LIFTED = ["block_diagonal", {"name": "lora_pro", "gauge": "symmetry"}, "refactored", "balanced"]


@pytest.mark.parametrize("lift", LIFTED, ids=str)
def test_adam_takes_moments_of_the_lifts_velocities(lift):
    rule = build("adam", lift=lift, decay=False)
    assert_same_path(rule, lambda tensors: [torch.optim.Adam(tensors, lr=1e-2)], lift=lift, train_biases=True)


def test_scaled_adam_written_out():
    """Zhang & Pilanci: precondition each factor's gradient by the other's Gram matrix, then Adam."""
    objective = objective_of()
    run, theta = started(
        build("adam", lift={"name": "block_diagonal", "eps": 1e-6}, decay=False), objective, step_size=0.01, max_steps=9
    )
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t in range(1, 9):
        expected, g, parts = theta.clone(), objective.gradient(theta)[1], []
        for block in objective.blocks.pairs:
            (B, A), (gB, gA) = block.split(theta[block.slice]), block.split(g[block.slice])
            lam = 1e-6 * (B.square().sum() + A.square().sum()) / 4 * torch.eye(2)
            parts += [
                (gB @ torch.linalg.inv(A @ A.T + lam)).reshape(-1),
                (torch.linalg.inv(B.T @ B + lam) @ gA).reshape(-1),
            ]
        h = torch.cat(parts)
        m, v = 0.9 * m + 0.1 * h, 0.999 * v + 0.001 * h**2
        expected -= 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        theta = run.step(objective, theta).theta
        assert_close(theta, expected)


def test_lora_plus_moves_b_faster():
    def make(tensors):
        return [torch.optim.Adam([{"params": tensors[0::2], "lr": 16e-3}, {"params": tensors[1::2], "lr": 1e-3}])]

    assert_same_path(build("adam", ratio=16.0, decay=False), make, step_size=1e-3)


def test_weight_decay_is_decoupled():
    rule = build("adam", weight_decay=0.1, decay=False)
    assert_same_path(rule, lambda tensors: [torch.optim.AdamW(tensors, lr=1e-2, weight_decay=0.1)])


def weighted_least_squares(B, A, G, scale, F) -> list[torch.Tensor]:
    """(dB, dA) whose product step is nearest to -F^-1 G in the norm weighted by F (m, n), and of those the ones whose two
    parts are nearest to each other in it: by the explicit Jacobians of the parts' sum and difference."""

    def part(signs):
        def combined(dB, dA):
            return (scale * F.sqrt() * (dB @ A + signs * B @ dA)).reshape(-1)

        jacobians = torch.autograd.functional.jacobian(combined, (B, A))
        return torch.cat([jacobian.flatten(1) for jacobian in jacobians], 1)

    total, difference = part(1.0), part(-1.0)
    y = -torch.linalg.pinv(total, rtol=1e-10) @ (G / F.sqrt()).reshape(-1)
    free = torch.linalg.svd(total).Vh[-(A.shape[0] ** 2) :].T  # what leaves the product as it is
    y = y - free @ torch.linalg.lstsq(difference @ free, difference @ y).solution
    return [y[: B.numel()].view_as(B), y[B.numel() :].view_as(A)]


def seen(B, A, G, source) -> torch.Tensor:
    """G, or what the factors see of it: its projection on what dB A + B dA can be."""
    if source == "dense":
        return G
    U, V = torch.linalg.qr(B).Q, torch.linalg.qr(A.T).Q
    left, right = U @ U.T, V @ V.T
    return left @ G + G @ right - left @ G @ right


@pytest.mark.parametrize(("source", "tolerance"), [("dense", 1e-8), ("factors", 1e-5)])
def test_adam_with_the_adafactor_metric_written_out(source, tolerance):
    """Every layer's second moments R C^T / sum R, then weighted least squares, then Adam. To 1e-5 of the step where the metric
    sees the projected gradient, which is damped there by 1e-8."""
    objective = objective_of(scale=0.5, train_biases=True)
    options = {"lift": {"name": "weighted", "eps": 0.0}, "metric": {"name": "adafactor", "source": source, "beta": 0.9}}
    run, theta = started(build("adam", decay=False, **options), objective, step_size=0.01, max_steps=9)
    m, v, energies = torch.zeros_like(theta), torch.zeros_like(theta), {}
    for t in range(1, 6):
        direction, layers = objective.gradient(theta)[1], dense(objective, theta)
        for block, (B, A, G, scale) in zip(objective.blocks.pairs, layers, strict=True):
            squares = seen(B, A, G, source).square()
            R, C = energies.get(block.name, (0.0, 0.0))
            energies[block.name] = R, C = 0.9 * R + 0.1 * squares.sum(1), 0.9 * C + 0.1 * squares.sum(0)
            rows, columns = ((e + 1e-6 * e.mean()) / (1 - 0.9**t) for e in (R, C))
            F = (torch.outer(rows, columns) / (R.sum() / (1 - 0.9**t))).sqrt()
            steps = weighted_least_squares(B, A, G, scale, F)
            direction[block.slice] = -torch.cat([step.reshape(-1) for step in steps])
        m, v = 0.9 * m + 0.1 * direction, 0.999 * v + 0.001 * direction**2
        step = -0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        moved = run.step(objective, theta).theta
        assert_close(moved - theta, step, tolerance)
        theta = moved
    assert run.flows.learned.count == 5


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("lift", ["chain_rule", "balanced"])
def test_momentum_is_torchs(lift, nesterov):
    rule = build("momentum", lift=lift, nesterov=nesterov, decay=False)
    make = lambda tensors: [torch.optim.SGD(tensors, lr=1e-4, momentum=0.9, nesterov=nesterov)]  # noqa: E731
    assert_same_path(rule, make, lift=lift, step_size=1e-4, train_biases=True)


def test_soap_scion_and_rite_are_pytorch_optimizers():
    wd = {"weight_decay": 0.0}
    make = lambda tensors: [pytorch_optimizer.SOAP(tensors, lr=1e-2, **wd)]  # noqa: E731
    assert_same_path(build("soap", decay=False), make)
    assert_same_path(
        build("scion", decay=False), lambda tensors: [pytorch_optimizer.SCION(tensors, lr=1e-3)], step_size=1e-3
    )

    def rite(tensors):
        pairs = [t for B, A in zip(tensors[0::2], tensors[1::2], strict=True) for t in (A, B)]
        return [pytorch_optimizer.LoRARite(pairs, lr=1e-2, clip_unmagnified_grad=0.0, update_skipping=0.0)]

    assert_same_path(build("lora_rite", decay=False), rite)


def test_the_step_of_rite_does_not_depend_on_the_factorisation():
    """Its promise: the same product step from (B X, X^-1 A), to 1e-4 by its eps of 1e-6."""
    steps = []
    for X in (torch.eye(2).double(), torch.tensor([[3.0, 1.0], [-0.5, 0.2]]).double()):
        objective = objective_of()
        theta = objective.blocks.read(objective.network)
        for block in objective.blocks.pairs:
            B, A = block.split(theta[block.slice])
            theta[block.slice] = torch.cat([(B @ X).reshape(-1), torch.linalg.solve(X, A).reshape(-1)])
        rule, before = build("lora_rite", decay=False), theta
        run = rule.start(objective.blocks, theta, step_size=1e-4, max_steps=9)
        for _ in range(3):
            theta = run.step(objective, theta).theta
        steps.append(
            torch.cat(
                [
                    (
                        block.split(theta[block.slice])[0] @ block.split(theta[block.slice])[1]
                        - block.split(before[block.slice])[0] @ block.split(before[block.slice])[1]
                    ).reshape(-1)
                    for block in objective.blocks.pairs
                ]
            )
        )
    assert (steps[0] - steps[1]).norm() < 1e-3 * steps[0].norm()


def test_muon_is_torchs_with_adam_for_biases():
    def make(tensors):
        matrices, rest = [t for t in tensors if t.ndim == 2], [t for t in tensors if t.ndim != 2]
        muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.Adam(rest, lr=1e-2)]

    assert_same_path(build("muon", decay=False), make, train_biases=True)


@pytest.mark.parametrize("anneal", [False, True])
def test_rad_written_out(anneal):
    objective = objective_of(train_biases=True)
    run, theta = started(
        build("rad", anneal=anneal, delta=2.0, decay=False), objective, step_size=1e-2, max_steps=STEPS
    )
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for k in range(1, STEPS + 1):
        g = objective.gradient(theta)[1]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        zeta = min(max(math.exp(40 * (k / STEPS - 1)), 1e-16), 1.0) if anneal else 1e-16
        expected = theta - 1e-2 / (1 - 0.9**k) * math.sqrt(1 - 0.999**k) * m / (4.0 * v + zeta).sqrt()
        theta = run.step(objective, theta).theta
        assert_close(theta, expected, 1e-12)


def test_decay_takes_every_step_size_to_zero():
    objective = objective_of()
    run, theta = started(build("adam", ratio=16.0), objective, step_size=1e-2, max_steps=10)
    for _ in range(5):
        theta = run.step(objective, theta).theta
    assert run.h == pytest.approx(0.5e-2)
    run.step(objective, theta)
    rates = [group["lr"] for group in run.torch[0].param_groups]
    assert rates == pytest.approx([16 * 0.5e-2, 0.5e-2])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"ratio": 0.0}, "adam: ratio is 0.0; it must be above 0 and finite"),
        ("adam", {"metric": "adafactor"}, "ChainRule follows the same direction whatever the metric is"),
        ("momentum", {"beta": 1.0}, "momentum: beta is 1.0; it must be above 0 and below 1"),
        ("rad", {"delta": 0.0}, "rad: delta is 0.0; it must be above 0 and finite"),
        ("scion", {"a": 0.0}, "scion: a is 0.0; it must be above 0 and at most 1"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_a_missing_extra_says_how_it_is_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match=r"SOAP comes with another package: pip install 'pinn-lora\[baselines\]'"):
        started(build("soap"), objective_of(), step_size=1e-2, max_steps=3)
