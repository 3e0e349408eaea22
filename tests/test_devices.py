"""What a step computes lies where theta lies, and what cannot be computed on is no device.

With a default device whose tensors hold no numbers, every tensor that is made without saying where cannot be computed with, so
that a step which ends has made all of its own beside theta. That is what a GPU asks of it, and it is found without one.
"""

import warnings

import pytest
import torch
from small_problems import PROBLEMS, mlp, objective, somewhere, trained

import pinn_lora as pl
from pinn_lora import lower, problems, solvers
from pinn_lora.batches import Batch
from pinn_lora.catalog import find, names
from pinn_lora.cli import main
from pinn_lora.configs import configs_folder
from pinn_lora.devices import check_device
from pinn_lora.method import Method
from pinn_lora.presets import PRESETS
from pinn_lora.problem import Problem
from pinn_lora.training import network_for

SOFT = PROBLEMS["soft"]


def three_steps(method, network, step_size: float) -> None:
    found = objective(SOFT, network, n=30)
    theta = found.blocks.read(network)
    with torch.device("meta"):
        run = method.start(found.blocks, theta, step_size=step_size, max_steps=3)
        for _ in range(3):
            theta = run.step(found, theta).theta
    assert theta.device.type == "cpu" and theta.isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_steps_where_theta_is(name):
    preset, network = PRESETS[name], mlp(SOFT)
    if preset.trains == "factors":
        start = preset.initializer if preset.method.rank_factor > 1 else "balanced"
        network = pl.adapt(network, rank=2 * preset.method.rank_factor, initializer=start)
    three_steps(preset.method, network, preset.step_size)


@pytest.mark.parametrize("solver", names(solvers))
@pytest.mark.parametrize("lift", ["balanced", "block_diagonal", "refactored", "weighted"])
def test_every_solver_and_mass_does(solver, lift):
    method = Method("identity", lift, {"name": "rosenbrock_euler", "solver": solver})
    three_steps(method, trained(SOFT, "biases_output"), 1.0)


@pytest.mark.parametrize("name", names(problems))
def test_every_problems_loss_and_jacobian_do(name):
    problem = find(problems, Problem, name)()
    network = network_for(problem, width=6, depth=2)
    found = objective(problem, network, n=12)
    theta = somewhere(found.blocks, network)
    with torch.device("meta"):
        f, g = found.gradient(theta)
        R, J = found.jacobian(theta)
        assert found.value(theta) == pytest.approx(f)
    assert g.isfinite().all() and R.isfinite().all() and J.isfinite().all()


def test_a_batch_does():
    members = [objective(SOFT, trained(SOFT, "biases_output", seed=k), n=12) for k in range(2)]
    thetas = torch.stack([somewhere(member.blocks, member.network) for member in members])
    with torch.device("meta"):
        batch = Batch(members)
        found = [*batch.gradient(thetas), *batch.normal(thetas), *batch.normal_and_jacobian(thetas)]
    assert all(x.isfinite().all() for x in found)


ABSENT = ["meta", "hpu", "xla", "vulkan", "mkldnn", "privateuseone"]  # torch knows the name
ABSENT += [] if torch.backends.mps.is_available() else ["mps", "mps:0", torch.device("mps")]
NO_DEVICES = [*ABSENT, "nonsense", "", "cpu:-1", "cuda:99", 99, True, ["cpu"]]


@pytest.mark.parametrize("device", NO_DEVICES, ids=str)
@pytest.mark.parametrize("train", ["pretrain", "finetune"])
def test_a_device_that_cannot_compute_gets_one_sentence(device, train):
    base = pl.Solution(SOFT, mlp(SOFT))
    with pytest.raises(ValueError) as raised:
        if train == "pretrain":
            pl.pretrain(SOFT, width=4, depth=2, max_steps=1, points=16, device=device)
        else:
            pl.finetune(base, SOFT, rank=1, max_steps=1, points=16, device=device)
    assert str(raised.value).startswith(f"the device {device!r} cannot be used here (choices: cpu")
    assert "\n" not in str(raised.value) and not str(raised.value).endswith(": ")
    if device in ABSENT:
        assert str(raised.value).endswith(f"): torch {torch.__version__} finds no such device that computes"), (
            "no words of torch's"
        )


@pytest.mark.parametrize("device", ["meta", "hpu"])
def test_the_command_says_so_before_anything_is_written(device, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pinn-lora", "run", str(configs_folder() / "smoke.toml"), "--device", device])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and not out and not list(tmp_path.iterdir())
    assert err.startswith(f"error: the device '{device}' cannot be used here (choices: cpu") and err.count("\n") == 1


def test_a_type_that_the_device_does_not_have_is_found(monkeypatch):
    """Apple's has no float64: what it says of it is no RuntimeError."""
    real = torch.ones

    def ones(*size, device=None, dtype=None):
        if dtype is torch.float64:
            warnings.warn("it may come with a warning", stacklevel=2)
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype\nas the framework does not support it")
        return real(*size, device=device, dtype=dtype)

    monkeypatch.setattr(torch, "ones", ones)
    check_device("cpu", torch.float32)
    with pytest.raises(ValueError, match=r"^the device 'cpu' cannot be used here .*: Cannot convert .* float64 dtype$"):
        check_device("cpu", torch.float64)
    found = pl.pretrain(SOFT, width=4, depth=2, max_steps=1, points=16, device="cpu", dtype="float32")
    again = pl.finetune(found, SOFT, rank=1, max_steps=1, points=16, device="cpu")
    assert {p.dtype for p in again.network.parameters()} == {torch.float32}, "the base's type is the one that is asked"


def test_what_can_compute_is_taken():
    for device in ("cpu", torch.device("cpu"), "cpu:0"):
        check_device(device)
    found = pl.pretrain(SOFT, width=4, depth=2, max_steps=1, points=16, device="cpu")
    assert {p.device.type for p in found.network.parameters()} == {"cpu"}


def refused_on_a_gpu(*arguments, driver=None, **options):
    """torch.linalg.lstsq as CUDA has it: "the only valid driver is 'gels'", which needs a full rank."""
    assert driver in (None, "gels")
    return LSTSQ(*arguments, driver="gels", **options)


LSTSQ = torch.linalg.lstsq


@pytest.mark.parametrize("step_size", [1.0, 1e18])
def test_a_step_whose_factor_fails_asks_for_nothing_that_a_gpu_has_not(monkeypatch, step_size):
    monkeypatch.setattr(torch.linalg, "lstsq", refused_on_a_gpu)
    monkeypatch.setattr(lower, "factor", lambda matrix: None)
    found = objective(SOFT, trained(SOFT, "biases_output"), n=30)
    theta = found.blocks.read(found.network)
    for solver in names(solvers):
        step = Method("identity", "balanced", {"name": "rosenbrock_euler", "solver": solver})
        run = step.start(found.blocks, theta, step_size=step_size, max_steps=1)
        with torch.device("meta"):
            assert run.step(found, theta).theta.isfinite().all()


def test_a_pirate_nets_fit_does_not_either(monkeypatch):
    monkeypatch.setattr(torch.linalg, "lstsq", refused_on_a_gpu)
    network = pl.PirateNet(SOFT.domain, fourier=4, fields=1, depth=1)
    points = SOFT.domain.sample(30, seed=0)
    fitted = network.fitted(points, torch.sin(points[:, :1]))
    assert fitted(points).isfinite().all()
