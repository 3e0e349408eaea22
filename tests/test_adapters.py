"""Adapters on disk: what is loaded is what was saved, in PEFT's layout, and nothing is ever written over."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from probes import probes_of
from safetensors.torch import load_file
from torch import nn

import pinn_lora as pl
from pinn_lora import catalog, initializers
from pinn_lora.adapters import build_problem, describe_problem, fingerprint, save_network
from pinn_lora.lora import LoRALinear
from pinn_lora.problem import Problem

STARTS = catalog.names(initializers)
PROBLEM = Burgers(nu=0.05)
POINTS = PROBLEM.domain.sample(40, seed=1)
EVERY = [
    {},
    {"train_biases": True},
    {"train_output": True},
    {"train_biases": True, "train_output": True, "scale": 0.5},
    {"targets": "all", "train_biases": True, "rank": 1},
    {"targets": ["layers.2"], "scale": 3.0},
]


def network_of(seed: int = 3) -> pl.MLP:
    network = pl.MLP(PROBLEM.domain, width=6, depth=3, periodic=PROBLEM.periodic, seed=seed)
    with torch.no_grad():
        for layer in network.layers:
            layer.bias.copy_(torch.linspace(-0.3, 0.4, len(layer.bias)))
    return network


def base() -> pl.Solution:
    return pl.Solution(PROBLEM, network_of())


def moved(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
    return network


def adapted(of: pl.Solution, initializer="balanced", **options) -> pl.Solution:
    network = moved(
        pl.adapt(
            pl.merge(of.network),
            probes=probes_of(pl.merge(of.network)),
            **{"rank": 2, "initializer": initializer, **options},
        )
    )
    return pl.Solution(Burgers(nu=0.07), network, of, (), pl.Status.CONVERGED, {"seed": 4, "weights": {"initial": 2.0}})


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    """Tensor by tensor, and what is trained stays what is trained."""
    assert {n for n, _ in found.named_parameters()} == {n for n, _ in expected.named_parameters()}
    held, wanted = found.state_dict(), expected.state_dict()
    assert held.keys() == wanted.keys()
    for name, value in wanted.items():
        assert held[name].dtype == value.dtype
        assert torch.equal(held[name], value), name
    points = POINTS.to(next(iter(wanted.values())))
    assert torch.equal(found(points), expected(points))


# Round trips


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize("initializer", STARTS)
def test_an_adapter_comes_back_as_it_was(tmp_path, initializer, options):
    if initializer in ("lora_ga", "od_lora") and options.get("targets") == "all":
        pytest.skip("it takes 2 r directions, and a thin layer has fewer")
    start = base()
    saved = adapted(start, initializer, **options)
    folder = saved.save(tmp_path / "adapter")
    again = pl.Solution.load(folder, base=start)
    assert_same(again.network, saved.network)
    assert (again.problem, again.status, again.settings) == (saved.problem, saved.status, saved.settings)
    assert again.base is start
    assert all(a.scale == b.scale for a, b in zip(_layers(again), _layers(saved), strict=True))


@dataclass(frozen=True)
class Bar(Problem):
    """u_t = u_xx on a bar of length L: a domain that depends on a coefficient."""

    L: float = 1.0

    @property
    def domain(self) -> pl.Domain:  # type: ignore[override]
        return pl.Domain(x=(0.0, self.L), t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t - u.xx


def test_a_network_on_another_domain_than_its_problems_comes_back_as_it_was(tmp_path):
    """It scales its inputs by its own: that of the base where all weights were adapted, or of the network that was given."""
    short, few = Bar(L=0.1 + 0.2), {"max_steps": 2, "points": 64}
    base = pl.pretrain(short, width=4, depth=1, **few)
    tuned = pl.finetune(base, Bar(L=2.0), method="full-lm", **few)
    given = pl.pretrain(Bar(L=2.0), network=pl.MLP(short.domain, width=4, depth=1), **few)
    for name, solution in (("base", base), ("tuned", tuned), ("given", given)):
        assert_same(pl.Solution.load(solution.save(tmp_path / name)).network, solution.network)


def test_a_folder_from_before_domains_were_saved_is_loaded_by_its_problem(tmp_path):
    start = base()
    notes = start.save(tmp_path / "old") / "pinn_lora.json"
    held = json.loads(notes.read_text())
    assert held["network"].pop("domain") == {"x": [-1.0, 1.0], "t": [0.0, 1.0]}
    notes.write_text(json.dumps(held))
    assert_same(pl.Solution.load(tmp_path / "old").network, start.network)


def _layers(solution: pl.Solution) -> list[LoRALinear]:
    return [module for module in solution.network.modules() if isinstance(module, LoRALinear)]


@pytest.mark.parametrize("initializer", STARTS)
def test_a_loaded_adapter_can_be_saved_again(tmp_path, initializer):
    start = base()
    first = adapted(start, initializer, train_biases=True).save(tmp_path / "first")
    second = pl.Solution.load(first, base=start).save(tmp_path / "second")
    for name in ("adapter_model.safetensors", "adapter_config.json", "pinn_lora.json"):
        one, two = (folder / name for folder in (first, second))
        if name != "pinn_lora.json":
            assert one.read_bytes() == two.read_bytes()
        else:
            assert json.loads(one.read_text()) == json.loads(two.read_text())


def test_whoever_may_read_the_notes_may_read_the_tensors(tmp_path):
    for saved in (adapted(base()).save(tmp_path / "adapter"), base().save(tmp_path / "network")):
        assert len({path.stat().st_mode for path in saved.iterdir()}) == 1, (
            "safetensors' own files are their owner's alone"
        )


def test_a_network_comes_back_without_anything_else(tmp_path):
    start = pl.Solution(PROBLEM, moved(network_of()), settings={"seed": 1})
    again = pl.Solution.load(start.save(tmp_path / "base"))
    assert_same(again.network, start.network)
    assert again.problem == PROBLEM
    assert again.network.describe() == start.network.describe()


def test_all_weights_come_back(tmp_path):
    start = base()
    tuned = pl.Solution(Burgers(nu=0.07), moved(network_of()), start)
    folder = tuned.save(tmp_path / "tuned")
    assert not (folder / "adapter_model.safetensors").exists()
    assert_same(pl.Solution.load(folder, base=start).network, tuned.network)
    assert_same(pl.Solution.load(folder).network, tuned.network)


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_on_an_adapted_solution_comes_back(tmp_path, whole):
    """A family is walked member by member: the second adapter starts from the merged first one."""
    first = adapted(base())
    second = pl.Solution(PROBLEM, moved(pl.merge(first.network)), first) if whole else adapted(first, train_biases=True)
    again = pl.Solution.load(second.save(tmp_path / "second"), base=first)
    assert_same(again.network, second.network)


@pytest.mark.parametrize("kind", ["adapter", "network", "all weights"])
def test_single_precision_comes_back_as_it_was(tmp_path, kind):
    """Also where the base is in double precision."""
    start = base()
    if kind == "adapter":
        saved = adapted(start, train_biases=True)
    else:
        saved = pl.Solution(PROBLEM, moved(network_of()), None if kind == "network" else start)
    saved.network.float()
    again = pl.Solution.load(saved.save(tmp_path / "single"), base=None if kind == "network" else start)
    assert_same(again.network, saved.network)


def test_a_network_of_another_make_comes_back_with_its_base(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    start = pl.Solution(PROBLEM, network)
    tuned = pl.Solution(PROBLEM, moved(pl.adapt(network, rank=2, initializer="balanced", train_biases=True)), start)
    again = pl.Solution.load(tuned.save(tmp_path / "tuned"), base=start)
    assert_same(again.network, tuned.network)
    folder = start.save(tmp_path / "base")
    with pytest.raises(ValueError, match="network that is none of pinn_lora's; pass base="):
        pl.Solution.load(folder)
    assert_same(pl.Solution.load(folder, base=pl.Solution(PROBLEM, moved(pl.merge(network)))).network, network)


def test_the_trained_problem_of_finetune_comes_back(tmp_path, small_base, target):
    tuned = pl.finetune(small_base, target, rank=1, max_steps=2, points=64, targets="all", train_biases=True)
    again = pl.Solution.load(tuned.save(tmp_path / "tuned"), base=small_base)
    assert_same(again.network, tuned.network)
    assert again.relative_l2() == tuned.relative_l2()
    assert again.settings == json.loads(json.dumps(tuned.settings))


# PEFT's layout


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("initializer", STARTS)
def test_the_files_are_pefts(tmp_path, initializer, scale):
    """By hand, as PEFT does it: W0 + (alpha / r) lora_B lora_A is the adapted weight."""
    start = base()
    saved = adapted(start, initializer, scale=scale, train_biases=True)
    folder = saved.save(tmp_path / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "pinn_lora.json",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    assert config["peft_type"] == "LORA"
    assert config["target_modules"] == ["layers.1", "layers.2"]
    merged = pl.merge(saved.network)
    for name in config["target_modules"]:
        B, A = (tensors[f"base_model.model.{name}.lora_{f}.weight"] for f in "BA")
        assert B.shape == (6, config["r"])
        assert A.shape == (config["r"], 6)
        weight = start.network.get_submodule(name).weight + config["lora_alpha"] / config["r"] * B @ A
        torch.testing.assert_close(weight, merged.get_submodule(name).weight, rtol=0, atol=1e-14)
        bias = tensors[f"base_model.model.{name}.base_layer.bias"]
        assert torch.equal(bias, merged.get_submodule(name).bias)
    assert torch.equal(tensors["base_model.model.layers.0.bias"], merged.layers[0].bias)
    assert len(tensors) == 8


def test_a_start_that_is_not_zero_doubles_the_rank(tmp_path):
    layers = _layers(adapted(base()))
    config = json.loads((adapted(base()).save(tmp_path / "a") / "adapter_config.json").read_text())
    assert config["r"] == 4
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    B, A = (tensors[f"base_model.model.layers.1.lora_{f}.weight"] for f in "BA")
    assert torch.equal(B[:, 2:], -layers[0].B0)
    assert torch.equal(A[2:], layers[0].A0)
    assert json.loads((adapted(base(), "zero_b").save(tmp_path / "z") / "adapter_config.json").read_text())["r"] == 2


# Fingerprints and refusals


def test_a_fingerprint_sees_every_tensor():
    first = fingerprint(network_of())
    assert first == fingerprint(network_of())
    assert len(first) == 64
    for name, _ in network_of().named_parameters():
        other = network_of()
        with torch.no_grad():
            dict(other.named_parameters())[name].view(-1)[0] += 1e-15
        assert fingerprint(other) != first


@pytest.mark.parametrize("whole", [False, True])
def test_another_base_is_refused(tmp_path, whole):
    tuned = pl.Solution(PROBLEM, moved(network_of()), base()) if whole else adapted(base())
    folder = tuned.save(tmp_path / "tuned")
    for other in (network_of(seed=4), sine_of()):
        with pytest.raises(ValueError, match=r"tuned was made from another base: its fingerprint is [0-9a-f]{12}$"):
            pl.Solution.load(folder, base=pl.Solution(PROBLEM, other))


def test_an_adapter_is_nothing_without_its_base(tmp_path):
    with pytest.raises(ValueError, match="holds an adapter; pass base="):
        pl.Solution.load(adapted(base()).save(tmp_path / "adapter"))


def sine_of(width: int = 6) -> pl.MLP:
    return pl.MLP(PROBLEM.domain, width=width, depth=3, periodic=PROBLEM.periodic, activation="sin")


def test_all_weights_from_before_their_base_was_noted_come_back_as_they_were(tmp_path):
    """With any base of their shape, whose activation is taken over only where their class is not there."""
    tuned = pl.Solution(Burgers(nu=0.07), moved(network_of()), base())
    folder = tuned.save(tmp_path / "tuned")
    notes = json.loads((folder / "pinn_lora.json").read_text())
    del notes["base"]
    (folder / "pinn_lora.json").write_text(json.dumps(notes))
    again = pl.Solution.load(folder, base=pl.Solution(PROBLEM, sine_of()))
    assert torch.equal(again.predict(POINTS), tuned.predict(POINTS))
    with pytest.raises(ValueError, match="tuned holds a network of another shape than the base; pass the base"):
        pl.Solution.load(folder, base=pl.Solution(PROBLEM, sine_of(width=7)))
    notes["network"]["class"] = "Gone"
    (folder / "pinn_lora.json").write_text(json.dumps(notes))
    assert_same(pl.Solution.load(folder, base=base()).network, tuned.network)


@pytest.mark.parametrize("kind", ["adapter", "network"])
def test_missing_and_broken_files_are_named(tmp_path, kind):
    start = base()
    folder = (adapted(start) if kind == "adapter" else start).save(tmp_path / "saved")
    weights = folder / ("adapter_model.safetensors" if kind == "adapter" else "network.safetensors")
    weights.unlink()
    with pytest.raises(ValueError, match=rf"saved.*{weights.name}"):
        pl.Solution.load(folder, base=start)
    weights.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=rf"saved.*{weights.name}"):
        pl.Solution.load(folder, base=start)
    for text in ("{", "[]", "{}", '{"kind": "study"}'):
        (folder / "pinn_lora.json").write_text(text)
        with pytest.raises(ValueError, match=r"saved.*pinn_lora\.json"):
            pl.Solution.load(folder, base=start)
    (folder / "pinn_lora.json").unlink()
    with pytest.raises(ValueError, match=r"saved holds no saved solution: there is no pinn_lora\.json in it"):
        pl.Solution.load(folder)
    with pytest.raises(ValueError, match="nowhere holds no saved solution"):
        pl.Solution.load(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["adapter", "network"])
def test_an_existing_folder_is_refused_and_untouched(tmp_path, kind):
    saved = adapted(base()) if kind == "adapter" else base()
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("precious")
    with pytest.raises(
        FileExistsError, match="full exists and is not empty; nothing was written: choose another folder"
    ):
        saved.save(full)
    assert [(path.name, path.read_text()) for path in full.iterdir()] == [("mine.txt", "precious")]
    a_file = tmp_path / "file"
    a_file.write_text("precious")
    with pytest.raises(FileExistsError, match="nothing was written"):
        saved.save(a_file)
    assert a_file.read_text() == "precious"
    first = saved.save(tmp_path / "new" / "deeper")
    held = {path.name: path.read_bytes() for path in first.iterdir()}
    with pytest.raises(FileExistsError):
        saved.save(first)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == held
    (tmp_path / "empty").mkdir()
    assert saved.save(tmp_path / "empty").is_dir()


def test_notes_that_cannot_be_written_leave_no_half_of_a_folder(tmp_path):
    with pytest.raises(TypeError):
        save_network(network_of(), tmp_path / "half", notes={"settings": object()})
    assert not (tmp_path / "half").exists()


# Problems


def test_a_problem_is_described_by_its_class_and_coefficients():
    described = describe_problem(Burgers(nu=0.01 / math.pi, form="soft"))
    assert described["class"] == "Burgers"
    assert described["coefficients"] == {"nu": 0.01 / math.pi, "form": "soft"}
    assert build_problem(json.loads(json.dumps(described)), "here") == Burgers(nu=0.01 / math.pi, form="soft")


def test_a_problem_of_ones_own_is_passed(tmp_path):
    @dataclass(frozen=True)
    class Mine(Problem):
        k: float = 2.0
        domain = PROBLEM.domain

        def residual(self, p, u):
            return u.t - self.k * u.xx

    start = pl.Solution(Mine(3.0), pl.MLP(PROBLEM.domain, width=4, depth=2))
    folder = start.save(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"Mine, which cannot be imported; pass problem="):
        pl.Solution.load(folder)
    again = pl.Solution.load(folder, problem=Mine(3.0))
    assert again.problem == Mine(3.0)
    assert_same(again.network, start.network)


def test_a_problem_that_is_no_dataclass_is_refused_in_one_sentence(tmp_path):
    class Loose(Problem):
        domain = PROBLEM.domain

    with pytest.raises(ValueError, match=r"Loose.*dataclass"):
        pl.Solution(Loose(), network_of()).save(tmp_path / "loose")
    assert not (tmp_path / "loose").exists()


def test_a_class_that_has_changed_is_named():
    described = describe_problem(PROBLEM)
    described["coefficients"]["old"] = 1.0
    with pytest.raises(ValueError, match=r"here was saved with .*Burgers.*old"):
        build_problem(described, "here")
