"""compile=True: the same numbers from compiled code, few things compiled, and a plain path where nothing can be."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_problems import HiddenField, Scaled, doubtful
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

import pinn_lora as pl
from pinn_lora import compiling
from pinn_lora import objective as objective_module
from pinn_lora.lora import Blocks, adapt
from pinn_lora.networks.mlp import MLP
from pinn_lora.objective import Objective
from pinn_lora.points import first_points

TOLERANCE = 1e-10  # float64, relative to the largest entry


@dataclass(frozen=True)
class Pair(pl.Problem):
    """Two unknowns, mixed and third derivatives, a periodic condition that sees both ends."""

    domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 0.5))
    fields = ("u", "v")

    def residual(self, p, u, v):
        return u.t - v * u.xt + p.x, v.xxx - u.x * v.t + u**2

    def conditions(self):
        return [pl.periodic(on="x"), pl.initial(lambda p: pl.sin(p.x))]


def network_of(problem: pl.Problem, lora: bool, activation: str = "tanh", dtype=torch.float64) -> torch.nn.Module:
    shape = {"fields": len(problem.fields), "width": 7, "depth": 2, "periodic": problem.periodic}
    network = MLP(problem.domain, **shape, activation=activation, seed=4, dtype=dtype)
    options = {"rank": 2, "initializer": "balanced", "scale": 0.5, "train_biases": True, "train_output": True}
    return adapt(network, **options) if lora else network


def somewhere(blocks: Blocks, network: torch.nn.Module) -> torch.Tensor:
    theta = blocks.read(network)
    return theta + 0.1 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(7), dtype=theta.dtype)


def pair_of(problem: pl.Problem, network: torch.nn.Module, n: int, **options) -> tuple[Objective, Objective]:
    blocks, points = Blocks(network), first_points(problem, n, seed=1)
    plain, compiled = (Objective(problem, network, blocks, points, compile=c, **options) for c in (False, True))
    return plain, compiled


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Chunks of 64 points, or of 32 or 16 at the end: several and an uneven last one, in little time."""
    monkeypatch.setattr(objective_module, "points_together", lambda *sizes: 64)


def global_state() -> tuple:
    import torch._dynamo
    import torch._inductor.config

    configs = torch._dynamo.config.save_config(), torch._inductor.config.save_config()
    flags = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    return *configs, *flags, torch.random.get_rng_state().tolist()


def agree(plain: Objective, compiled: Objective, theta: torch.Tensor) -> None:
    (f, g), (f2, g2) = plain.gradient(theta), compiled.gradient(theta)
    assert f2 == pytest.approx(f, rel=TOLERANCE)
    close(g2, g)
    for found, expected in zip(compiled.jacobian(theta), plain.jacobian(theta), strict=True):
        assert found.shape == expected.shape
        close(found, expected)
    close(compiled.gauss_newton(theta)[2], plain.gauss_newton(theta)[2])
    close(compiled.residuals(theta), plain.residuals(theta))
    assert compiled.value(theta) == pytest.approx(f, rel=TOLERANCE)


def test_compiled_is_plain_and_other_points_compile_nothing_again_other_coefficients_the_residual_alone():
    """All weights; two whole chunks and one that is filled up, all of one length. Others and conditions: the next test."""
    problem = Burgers(form="ansatz")
    network = network_of(problem, lora=False)
    plain, compiled = pair_of(problem, network, 2 * 64 + 50, weights={"residual": 3.0})
    theta, before = somewhere(plain.blocks, network), global_state()
    agree(plain, compiled, theta)
    assert global_state() == before

    kernels = len(compiling._kernels)
    assert kernels >= 4  # forward, the residual's squares, gradient and adjoint: something was compiled
    for other, more in ((Burgers(form="ansatz"), 0), (Burgers(nu=0.1, form="ansatz"), 1)):
        points = first_points(other, 3 * 64 + 60, seed=9)
        again = [Objective(other, network, plain.blocks, points, compile=c) for c in (False, True)]
        agree(*again, theta)
        assert len(compiling._kernels) == kernels + more


def test_compiled_is_plain_for_factors_and_two_point_sets():
    """One chunk of each, of two lengths: padded features of a paired condition, two fields, derivatives up to the third."""
    problem = Pair()
    network = network_of(problem, lora=True, activation="sin")
    blocks, points = Blocks(network), first_points(problem, 50, seed=2)
    points["periodic"] = tuple(p[:30] for p in points["periodic"])
    points["initial"] = tuple(p[:9] for p in points["initial"])
    plain, compiled = (Objective(problem, network, blocks, points, compile=c) for c in (False, True))
    agree(plain, compiled, somewhere(blocks, network))


def test_compiled_is_plain_in_float32():
    """To the rounding of a sum of a few hundred numbers."""
    problem = Burgers(form="ansatz")
    network = network_of(problem, lora=True, dtype=torch.float32)
    plain, compiled = pair_of(problem, network, 64)
    theta = somewhere(plain.blocks, network)
    (f, g), (f2, g2) = plain.gradient(theta), compiled.gradient(theta)
    assert f2 == pytest.approx(f, rel=1e-5)
    assert g2.dtype == torch.float32
    close(g2, g, 1e-4)


@dataclass(frozen=True)
class Stubborn(pl.Problem):
    """A residual that cannot be traced: its numbers steer it, leave torch, or are others each time it is called."""

    kind: str
    domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 0.5))
    calls: ClassVar[list[float]] = [0.0]

    def residual(self, p, u):
        if self.kind == "branches":
            return u.t + u.xx if (u.value.detach().abs() < 1e9).all() else u.t
        if self.kind == "reads a number":
            return u.t + u.xx * float(p.x[0])
        if self.kind == "leaves torch":
            return u.t + u.xx - torch.as_tensor(np.sin(3.0 * p.x.numpy()))
        self.calls[0] += 1.0
        return u.t + u.xx + self.calls[0]

    def conditions(self):
        return []


@pytest.mark.parametrize("kind", ["branches", "reads a number", "leaves torch"])
def test_a_residual_that_cannot_be_traced_stays_as_it_is_and_says_so_once(kind):
    """What is taken from the first chunk's numbers would be wrong for the second, of the same shape."""
    problem = Stubborn(kind)
    network = network_of(problem, lora=False)
    plain, compiled = pair_of(problem, network, 2 * 64)
    theta = plain.blocks.read(network)
    with pytest.warns(
        UserWarning, match="Stubborn's term residual is not compiled, its numbers stay the same"
    ) as caught:
        found = compiled.gradient(theta)
    assert len(caught) == 1 and len(compiled.chunks) == 2
    f, g = plain.gradient(theta)
    assert found[0] == pytest.approx(f, rel=TOLERANCE)
    close(found[1], g)
    assert compiling.can_compile()


def test_a_residual_of_other_numbers_each_time_is_called_each_time():
    problem = Stubborn("counts")
    network = network_of(problem, lora=False)
    _, compiled = pair_of(problem, network, 2 * 64)
    theta = compiled.blocks.read(network)
    with pytest.warns(UserWarning, match="compiled, it gives other numbers"):
        found = compiled.gradient(theta)
    assert compiled.gradient(theta)[0] > found[0]


@pytest.mark.parametrize("kind", [HiddenField, Scaled])
def test_problems_that_equality_does_not_tell_apart_keep_their_loss_plain(kind):
    for c in (1.0, 3.0):
        problem = kind(c) if kind is HiddenField else kind(c=c)
        network = network_of(problem, lora=False)
        plain, compiled = pair_of(problem, network, 64)
        theta = somewhere(plain.blocks, network)
        close(compiled.gradient(theta)[1], plain.gradient(theta)[1])
        assert compiled.chunks[0][0].squares is None


@pytest.mark.parametrize("kind", range(len(doubtful(1.0))), ids=[type(p).__name__ for p in doubtful(1.0)])
def test_what_is_given_to_the_compiler_is_of_the_problem_itself(kind):
    """Whatever its equality says: what is compiled for c = 1 is not found again for c = 3."""
    for c in (1.0, 3.0):
        problem = doubtful(c)[kind]
        network = network_of(problem, lora=False)
        plain, compiled = pair_of(problem, network, 64)
        (chunk, _), (squares, weights) = plain.chunks[0], (compiled.chunks[0][0].squares, torch.ones(64).double())
        outputs, _ = chunk.passes.forward(plain.running.bind(somewhere(plain.blocks, network)), chunk.features)
        if squares is not None:
            close(squares.function(outputs, weights, squares.points)[0], chunk.at.squares(outputs, weights)[0])


@dataclass(frozen=True)
class Unhashable(pl.Problem):
    """A coefficient without a hash: what is compiled cannot be found again, so the loss is not compiled."""

    speeds: list[float] = field(default_factory=lambda: [1.0, 2.0])
    domain = pl.Domain(x=(-1.0, 1.0), t=(0.0, 0.5))

    def residual(self, p, u):
        return u.t + sum(self.speeds) * u.x

    def conditions(self):
        return []


def test_a_problem_without_a_hash_keeps_its_loss_plain():
    problem = Unhashable()
    network = network_of(problem, lora=False)
    plain, compiled = pair_of(problem, network, 64)
    (chunk, _) = compiled.chunks[0]
    assert chunk.squares is None and chunk.passes is not plain.chunks[0][0].passes
    theta = somewhere(plain.blocks, network)
    close(compiled.gradient(theta)[1], plain.gradient(theta)[1])


def plus(x: torch.Tensor) -> list[torch.Tensor]:
    return [x + 1.0]


def times(x: torch.Tensor) -> list[torch.Tensor]:
    return [2.0 * x]


@pytest.fixture
def compiled(monkeypatch) -> list[tuple]:
    """What was compiled, and at which shape: nothing is known at first, and compiling takes no time."""
    found = []

    def compile(function, tensors, mode="real"):
        found.append((function, tuple(tensors[0].shape)))
        return lambda *given: [part.clone() for part in function(*given)]

    for name, value in (("_kernels", {}), ("_refused", {}), ("_broken", False), ("_compile", compile)):
        monkeypatch.setattr(compiling, name, value)
    return found


FAILURES = {
    "MemoryError": MemoryError(),
    "[Errno 28] No space left on device": InductorError(OSError(28, "No space left on device"), None),
    "k.cpp:1:10: fatal error: Python.h: No such": InductorError(
        CppCompileError(["g++"], "In file:\nk.cpp:1:10: fatal error: Python.h: No such\n"), None
    ),
    "a bug": RuntimeError("a bug\nof many lines"),
}


@pytest.mark.parametrize("said", FAILURES)
@pytest.mark.parametrize("way", [compiling.run, compiling.run_foreign])
def test_a_failure_leaves_one_function_as_it_is(way, said, compiled, monkeypatch):
    """With a warning that says what failed, once for all of its shapes; the others are compiled."""
    compile = compiling._compile

    def failing(function, tensors, **options):
        if function is plus:
            raise FAILURES[said]
        return compile(function, tensors, **options)

    monkeypatch.setattr(compiling, "_compile", failing)
    with pytest.warns(UserWarning) as caught:
        for n in (3, 4, 3):
            assert torch.equal(way(plus, [torch.ones(n)], name="The sum")[0], torch.full((n,), 2.0))
    assert [str(w.message) for w in caught] == [f"The sum is not compiled, its numbers stay the same: {said}"]
    assert torch.equal(way(times, [torch.ones(3)], name="The product")[0], torch.full((3,), 2.0))
    assert compiled == [(times, (3,))] and compiling.can_compile()


@pytest.mark.parametrize("way", [compiling.run, compiling.run_foreign])
def test_without_a_compiler_nothing_more_is_tried(way, compiled, monkeypatch):
    tried = []

    def missing(function, tensors, **options):
        tried.append(function)
        raise InductorError(InvalidCxxCompiler(), None)

    monkeypatch.setattr(compiling, "_compile", missing)
    with pytest.warns(UserWarning, match=r"^compile=True is turned off, .*: No working C\+\+ compiler found") as caught:
        for function in (plus, times, plus):
            assert torch.equal(way(function, [torch.ones(3)], name="It")[0], torch.full((3,), 2.0))
    assert len(caught) == 1 and tried == [plus] and not compiling.can_compile()


def test_the_kernels_used_last_are_kept(compiled, monkeypatch):
    monkeypatch.setattr(compiling, "KERNELS", 3)
    for n in (1, 2, 3, 1, 4, 1, 2):  # 4 drops 2, not 1, which was asked for since
        assert torch.equal(compiling.run(plus, [torch.ones(n)])[0], torch.full((n,), 2.0))
    assert [shape for _, shape in compiled] == [(1,), (2,), (3,), (4,), (2,)]
    assert len(compiling._kernels) == 3


def test_a_kernel_is_for_one_shape_layout_type_and_number_of_threads(compiled, monkeypatch):
    """TorchInductor writes the number of threads into a kernel."""
    x = torch.ones(4, 4)
    cases = [x, x.double(), x[:2], x[:, :2]]
    for case in [*cases, *cases]:
        compiling.run(plus, [case])
    assert len(compiled) == len(cases)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    compiling.run(plus, [x])
    assert len(compiled) == len(cases) + 1


def test_few_points_are_not_compiled():
    problem = Burgers(form="ansatz")
    network = network_of(problem, lora=False)
    plain, compiled = pair_of(problem, network, 15)
    before, theta = len(compiling._kernels), plain.blocks.read(network)
    assert torch.equal(plain.gradient(theta)[1], compiled.gradient(theta)[1])
    assert len(compiling._kernels) == before


def test_only_jets_can_be_compiled():
    problem, network = Burgers(), torch.nn.Linear(2, 1).double()
    with pytest.raises(ValueError, match="compile=True needs"):
        Objective(problem, network, Blocks(network), first_points(problem, 10, seed=0), compile=True)


def test_without_a_compiler_one_warning_and_the_same_numbers(tmp_path):
    code = """
import warnings
import torch
from pinn_lora.problems.burgers import Burgers
import pinn_lora as pl
from pinn_lora.lora import Blocks
from pinn_lora.points import first_points
problem = Burgers()
network = pl.MLP(problem.domain, width=4, depth=2, periodic=("x",))
blocks, points = Blocks(network), first_points(problem, 1500, seed=0)
theta = blocks.read(network)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first = pl.Objective(problem, network, blocks, points, compile=True)
    f, g = first.gradient(theta)
    again = pl.Objective(problem, network, blocks, points, compile=True)
    again.gradient(theta), again.jacobian(theta), first.jacobian(theta)
assert len(caught) == 1, [str(w.message) for w in caught]
assert "compile=True is turned off" in str(caught[0].message)
f2, g2 = pl.Objective(problem, network, blocks, points).gradient(theta)
assert abs(f - f2) <= 1e-10 * abs(f2) and (g - g2).abs().max() <= 1e-10 * g2.abs().max()
"""
    done = run(code, CXX="/no/such/compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """A process of its own, which has compiled nothing yet."""
    checkout = Path(__file__).resolve().parents[1]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
