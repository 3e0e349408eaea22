"""configs/methods.toml: every method, and every choice of its parts, at equal work."""

import pytest
from probes import probes_of

import pinn_lora as pl
from pinn_lora.config import load_config, load_problem
from pinn_lora.configs import configs_folder
from pinn_lora.lora import Blocks
from pinn_lora.presets import PRESETS
from pinn_lora.table import is_among, parts_of, variants
from pinn_lora.training import network_for

CONFIG = load_config(configs_folder() / "methods.toml")
METHODS = {method.name: method for method in CONFIG.method}
KINDS = {type(part) for preset in PRESETS.values() for part in parts_of(preset) if part is not None}
VARIANTS = [
    part for kind in sorted(KINDS, key=lambda kind: (kind.__module__, kind.__name__)) for part in variants(kind)
]


def starts(method) -> list[str | None]:
    return method.starts or [method.preset().initializer]


def trained(method, start: str | None):
    """What a run of the study trains, and where it starts."""
    preset, [case] = method.preset(), CONFIG.case
    network = network_for(load_problem(case.problem, case.base), case.network, width=case.width, depth=case.depth)
    if preset.trains == "factors":
        rank = case.rank * preset.method.rank_factor
        network = pl.adapt(network, rank=rank, initializer=start, probes=probes_of(network))
    return Blocks(network), Blocks(network).read(network)


def test_every_preset_is_in_it():
    assert set(PRESETS) <= set(METHODS)


@pytest.mark.parametrize("part", VARIANTS, ids=repr)
def test_every_choice_of_a_presets_parts_is_in_it(part):
    used = [thing for method in METHODS.values() for thing in parts_of(method.preset())]
    assert is_among(part, *used), f"no method of configs/methods.toml has {part!r}: give it a [[method]] there"


def test_budgets_are_of_equal_work():
    """Declared gradients times steps agree within 10 %; steps that are none of gradients are equally many."""
    gradients, others = {}, {}
    for name, method in METHODS.items():
        blocks, _ = trained(method, starts(method)[0])
        layers = len({key.rpartition(".")[0] for block in blocks.blocks for key in block.keys})
        declared = method.preset().method.gradients(layers)
        if declared is None:
            others[name] = method.max_steps
        else:
            gradients[name] = method.max_steps * declared
    least, most = (choice(gradients, key=gradients.__getitem__) for choice in (min, max))
    assert gradients[most] <= 1.1 * gradients[least], f"{most} takes {gradients[most]}, {least} {gradients[least]}"
    assert len(set(others.values())) == 1, others
    assert METHODS["full-spqn"].max_steps < METHODS["lora-spqn"].max_steps, "a step grows with the layers"


@pytest.mark.parametrize("name", METHODS)
def test_each_can_be_started_from_each_of_its_starts(name):
    method = METHODS[name]
    for start in starts(method):
        blocks, theta = trained(method, start)
        run = method.preset().method.start(blocks, theta, step_size=method.step_sizes[0], max_steps=method.max_steps)
        assert run.h == method.step_sizes[0]
