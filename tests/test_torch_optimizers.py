"""Optimizers that torch or pytorch-optimizer hold: step by step what those give when they are used directly, and what a lift
in front of their moments does."""

import dataclasses
import functools
import math

import pytest
import pytorch_optimizer
import torch
from small_objective import assert_close, dense, objective_of, started

from pinn_lora import catalog, lifts, metrics, optimizers
from pinn_lora.flow import Flows
from pinn_lora.lifts import Lift
from pinn_lora.metrics import Metric
from pinn_lora.optimizers import Optimizer
from pinn_lora.optimizers.rad import _RAD

STEPS = 12


def build(name, **options) -> Optimizer:
    return catalog.build(optimizers, Optimizer, {"name": name, **options})


class Direct:
    """The tensors of theta as parameters, moved by torch optimizers that the test makes itself: `make` is given the factors
    B, A, B, A ... and the tensors beside them."""

    def __init__(self, objective, theta, make, *, lift="chain_rule", metric="identity", decay=False) -> None:
        self.objective, self.blocks, self.decay = objective, objective.blocks, decay
        parts = catalog.build(lifts, Lift, lift), catalog.build(metrics, Metric, metric)
        self.flows = Flows(*parts, self.blocks, theta)
        tensors = [[torch.nn.Parameter(t.clone()) for t in b.split(theta[b.slice])] for b in self.blocks.blocks]
        self.tensors = [t for found in tensors for t in found]
        pairs, dense = ([t for found in tensors if len(found) == k for t in found] for k in (2, 1))
        self.torch = make(pairs, dense)
        self.schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(found, T_max=STEPS) for found in self.torch]

    @property
    def theta(self) -> torch.Tensor:
        return torch.cat([t.detach().reshape(-1) for t in self.tensors])

    def step(self) -> None:
        theta, gradients = self.theta, []
        g = -self.flows.at(self.objective, theta).velocity(theta)[1]
        for block in self.blocks.blocks:
            gradients += block.split(g[block.slice])
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = gradient.clone()
        for optimizer in self.torch:
            optimizer.step()
        for schedule in self.schedules if self.decay else ():
            schedule.step()


def assert_same_path(rule, make, *, step_size=1e-2, tolerance=1e-12, lift="chain_rule", metric="identity", **options):
    objective = objective_of(**options)
    run, theta = started(rule, objective, step_size=step_size, max_steps=STEPS)
    direct = Direct(objective, theta, make, lift=lift, metric=metric, decay=rule.decay)
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
    assert_same_path(
        rule, lambda factors, dense: [torch.optim.Adam([*factors, *dense], lr=1e-2)], lift=lift, train_biases=True
    )


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
    def make(factors, _):
        return [torch.optim.Adam([{"params": factors[0::2], "lr": 16e-3}, {"params": factors[1::2], "lr": 1e-3}])]

    assert_same_path(build("adam", ratio=16.0, decay=False), make, step_size=1e-3)


def test_weight_decay_is_decoupled():
    rule = build("adam", weight_decay=0.1, decay=False)
    assert_same_path(rule, lambda factors, _: [torch.optim.AdamW(factors, lr=1e-2, weight_decay=0.1)])


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
    def make(factors, dense):
        return [torch.optim.SGD([*factors, *dense], lr=1e-4, momentum=0.9, nesterov=nesterov)]

    rule = build("momentum", lift=lift, nesterov=nesterov, decay=False)
    assert_same_path(rule, make, lift=lift, step_size=1e-4, train_biases=True)


def swapped(factors):
    """A, B, A, B ...: the order that LoRA-RITE expects."""
    return [t for B, A in zip(factors[0::2], factors[1::2], strict=True) for t in (A, B)]


def test_soap_scion_and_rite_are_pytorch_optimizers():
    """At its defaults, but for what the docstrings name as ours."""
    beside = {"train_biases": True}
    soap = lambda factors, dense: [pytorch_optimizer.SOAP([*factors, *dense], lr=1e-2, weight_decay=0.0)]  # noqa: E731
    assert_same_path(build("soap", decay=False), soap, **beside)
    scion = lambda factors, dense: [pytorch_optimizer.SCION([*factors, *dense], lr=1e-3)]  # noqa: E731
    assert_same_path(build("scion", decay=False), scion, step_size=1e-3, **beside)

    def rite(factors, dense):
        found = pytorch_optimizer.LoRARite(swapped(factors), lr=1e-2, clip_unmagnified_grad=0.0, update_skipping=0.0)
        return [found, torch.optim.Adam(dense, lr=1e-2)]

    assert_same_path(build("lora_rite", decay=False), rite, **beside)


def test_the_step_of_rite_does_not_depend_on_the_factorisation():
    """Its promise: the same product step from (B X, X^-1 A), to 1e-3 by its eps of 1e-6."""
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
    def make(factors, dense):
        muon = torch.optim.Muon(factors, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.Adam(dense, lr=1e-2)]

    assert_same_path(build("muon", decay=False), make, train_biases=True)


# Every option off its default


ADAFACTOR = {"lift": "weighted", "metric": "adafactor"}


def direct_adam(rule, factors, dense):
    groups = [{"params": factors[0::2], "lr": rule.ratio * 1e-3}, {"params": [*factors[1::2], *dense], "lr": 1e-3}]
    return [torch.optim.AdamW(groups, betas=(rule.beta1, rule.beta2), eps=rule.eps, weight_decay=rule.weight_decay)]


def direct_momentum(rule, factors, dense):
    return [torch.optim.SGD([*factors, *dense], lr=1e-3, momentum=rule.beta, nesterov=rule.nesterov)]


def direct_muon(rule, factors, dense):
    matrices, biases = ([t for t in (*factors, *dense) if (t.ndim == 2) == flat] for flat in (True, False))
    options = {"momentum": rule.momentum, "nesterov": rule.nesterov, "weight_decay": 0.0}
    muon = torch.optim.Muon(matrices, lr=1e-3, adjust_lr_fn="match_rms_adamw", **options)
    return [muon, torch.optim.Adam(biases, lr=1e-3)]


def direct_scion(rule, factors, dense):
    return [pytorch_optimizer.SCION([*factors, *dense], lr=1e-3, momentum=rule.a)]


def direct_soap(rule, factors, dense):
    options = {"betas": (rule.beta1, rule.beta2), "precondition_frequency": rule.every, "weight_decay": 0.0}
    return [pytorch_optimizer.SOAP([*factors, *dense], lr=1e-3, **options)]


def direct_lora_rite(rule, factors, dense):
    options = {"betas": (rule.beta1, rule.beta2), "eps": rule.eps, "apply_escape": rule.escape}
    options |= {"clip_unmagnified_grad": rule.clip, "update_skipping": rule.skip}
    found = pytorch_optimizer.LoRARite(swapped(factors), lr=1e-3, **options)
    return [found, torch.optim.Adam(dense, lr=1e-3)]


ADAM = {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "ratio": 3.0, "weight_decay": 0.1}
RITE = {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "clip": 0.05, "skip": 0.15, "escape": True}
DIRECT = {
    "adam": (direct_adam, {**ADAM, **ADAFACTOR}),
    "momentum": (direct_momentum, {"beta": 0.5, "nesterov": True, **ADAFACTOR}),
    "muon": (direct_muon, {"momentum": 0.5, "nesterov": False}),
    "scion": (direct_scion, {"a": 0.4}),
    "soap": (direct_soap, {"beta1": 0.5, "beta2": 0.8, "every": 3}),
    "lora_rite": (direct_lora_rite, RITE),
}


def end_of(rule) -> torch.Tensor:
    objective = objective_of(train_biases=True, train_output=True)
    run, theta = started(rule, objective, step_size=1e-3, max_steps=STEPS)
    for _ in range(STEPS):
        theta = run.step(objective, theta).theta
    return theta


def assert_every_option_matters(name, options):
    """All options are there, and each that is put back to its default ends elsewhere; of a metric also its lift."""
    given, rule = {"decay": False, **options}, catalog.find(optimizers, Optimizer, name)
    missing = {field.name for field in dataclasses.fields(rule)} - set(given)
    assert not missing, f"give {name}'s {sorted(missing)} a value off its default, and hand it to the reference"
    end = end_of(build(name, **given))
    for option in given:
        left = {key: value for key, value in given.items() if key != option and (option, key) != ("lift", "metric")}
        assert not torch.equal(end_of(build(name, **left)), end), f"{option} of {name} changes nothing"


@pytest.mark.parametrize("name", DIRECT)
def test_every_option_off_its_default_is_handed_on(name):
    """With tensors beside the factors: biases and the output layer's matrix."""
    make, options = DIRECT[name]
    assert_every_option_matters(name, options)
    beside = {"train_biases": True, "train_output": True}
    for decay in (False, True):
        rule = build(name, decay=decay, **options)
        flow = {key: options[key] for key in ADAFACTOR if key in options}
        assert_same_path(rule, functools.partial(make, rule), step_size=1e-3, **flow, **beside)


@pytest.mark.parametrize(
    "options",
    [
        {"anneal": False, "delta": 2.0},
        {"anneal": True, "delta": 2.0},
        {"anneal": False, "delta": 2.0, "beta1": 0.5, "beta2": 0.8, "zeta": 1e-2},
    ],
    ids=str,
)
def test_rad_written_out(options):
    objective = objective_of(train_biases=True, train_output=True)
    run, theta = started(build("rad", decay=False, **options), objective, step_size=1e-2, max_steps=STEPS)
    beta1, beta2, zeta = (options.get(*pair) for pair in (("beta1", 0.9), ("beta2", 0.999), ("zeta", 1e-16)))
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for k in range(1, STEPS + 1):
        g = objective.gradient(theta)[1]
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        if options["anneal"]:
            zeta = min(max(math.exp(40 * (k / STEPS - 1)), 1e-16), 1.0)
        expected = theta - 1e-2 / (1 - beta1**k) * math.sqrt(1 - beta2**k) * m / (4.0 * v + zeta).sqrt()
        theta = run.step(objective, theta).theta
        assert_close(theta, expected, 1e-12)
    if "zeta" in options:
        assert_every_option_matters("rad", options)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.5, 0.8)])
def test_the_speed_limit_of_rad(beta1, beta2):
    """Steps in units of h / delta: at most 1 for a steady gradient, and from gradients that grow as (beta2 / beta1)^t, which
    are Cauchy's equality, as many as the docstring says."""
    steps, limit = 4000, (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    rule = build("rad", beta1=beta1, beta2=beta2, delta=2.0, anneal=False, zeta=1e-300)
    for growth, expected in ((1.0, 1.0), (beta2 / beta1, limit)):
        parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer, largest = _RAD([parameter], 1e-2, rule, steps), 0.0
        for t in range(steps):
            before = parameter.detach().clone()
            parameter.grad = torch.full_like(before, max(growth ** (t - steps + 1), 1e-100))
            optimizer.step()
            largest = max(largest, float((parameter.detach() - before).abs()) / (1e-2 / 2.0))
        assert largest == pytest.approx(expected, rel=0.02) and largest <= expected * (1 + 1e-9)


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
