"""Folders as lists: names, nearest hints, options, and that every file of every folder keeps its contract."""

import dataclasses
import sys
import types

import pytest

from pinn_lora import catalog, initializers, integrators, lifts, metrics, optimizers
from pinn_lora.initializers import Initializer
from pinn_lora.integrators import Integrator
from pinn_lora.lifts import Lift
from pinn_lora.metrics import Metric
from pinn_lora.optimizers import Optimizer

FOLDERS = [
    (metrics, Metric),
    (lifts, Lift),
    (integrators, Integrator),
    (optimizers, Optimizer),
    (initializers, Initializer),
]
FILES = [(package, contract, name) for package, contract in FOLDERS for name in catalog.names(package)]


def ids(value):
    return value if isinstance(value, str) else getattr(value, "__name__", "").rpartition(".")[2]


@pytest.mark.parametrize(("package", "contract", "name"), FILES, ids=ids)
def test_a_part_is_built_again_from_what_spells_it(package, contract, name):
    """With options that are not the defaults where it has numbers."""
    part = catalog.build(package, contract, name)
    assert catalog.stem(part) == catalog.spelled(part)["name"] == name
    assert catalog.build(package, contract, catalog.spelled(part)) == part
    for field in dataclasses.fields(part):
        if type(field.default) is float:
            other = dataclasses.replace(part, **{field.name: 0.75 * field.default})
            assert catalog.build(package, contract, catalog.spelled(other)) == other


@pytest.mark.parametrize(("package", "contract"), FOLDERS, ids=ids)
def test_a_folder_holds_what_the_main_job_needs(package, contract):
    needed = {
        "metrics": {"identity"},
        "lifts": {"chain_rule", "block_diagonal", "balanced"},
        "integrators": {"euler", "midpoint", "heun", "rk4", "rosenbrock_euler"},
        "optimizers": {"adam", "lbfgs"},
        "initializers": {"zero_b", "balanced"},
    }
    assert needed[package.__name__.rpartition(".")[2]] <= set(catalog.names(package))


@pytest.mark.parametrize(("package", "contract", "name"), FILES, ids=ids)
def test_every_file_is_a_frozen_dataclass_with_defaults_and_one_line_to_describe_it(package, contract, name):
    cls = catalog.find(package, contract, name)
    assert cls.__dataclass_params__.frozen
    made = catalog.build(package, contract, name)
    assert isinstance(made, contract)
    assert made == cls()
    hash(made)
    line = catalog.describe(package, contract)[name]
    assert len(line) > 10 and line.endswith("."), "the file's docstring begins with a sentence of its own"
    assert not line.startswith(f"{cls.__name__}(")  # a sentence, not the signature that dataclass writes for itself


@pytest.mark.parametrize(("package", "contract", "name"), FILES, ids=ids)
def test_a_misspelt_name_or_option_gets_the_nearest_one(package, contract, name):
    kind = contract.__name__.lower()
    with pytest.raises(
        ValueError, match=rf"^there is no {kind} '{name}x'; did you mean '{name}'\? \(choices: .*{name}"
    ):
        catalog.build(package, contract, name + "x")
    for field in dataclasses.fields(catalog.find(package, contract, name)):
        with pytest.raises(ValueError, match=rf"no option of {name} '{field.name}x'; did you mean '{field.name}'\?"):
            catalog.build(package, contract, {"name": name, field.name + "x": 1})


@pytest.mark.parametrize(("package", "contract", "name"), FILES, ids=ids)
def test_an_option_of_the_wrong_type_is_one_sentence(package, contract, name):
    for field in dataclasses.fields(catalog.find(package, contract, name)):
        if isinstance(field.default, (bool, int, float)):
            with pytest.raises(ValueError, match=rf"option {field.name} of {name} is 'much'"):
                catalog.build(package, contract, {"name": name, field.name: "much"})


def test_an_instance_a_name_and_a_mapping_mean_the_same():
    made = catalog.build(lifts, Lift, {"name": "balanced", "eps": 1e-2})
    assert made.eps == 1e-2
    assert catalog.build(lifts, Lift, made) is made
    assert catalog.build(lifts, Lift, "balanced") == catalog.build(lifts, Lift, {"name": "balanced"})
    assert catalog.build(lifts, Lift, {"name": "chain_rule", "ratio": 16}).ratio == 16  # an int is a number too


def test_building_leaves_the_mapping_alone():
    spec = {"name": "balanced", "eps": 1e-2}
    catalog.build(lifts, Lift, spec)
    assert spec == {"name": "balanced", "eps": 1e-2}


@pytest.mark.parametrize("spec", [None, 3, {}, {"eps": 1e-2}, ["balanced"]], ids=str)
def test_what_is_no_name_is_refused_with_the_choices(spec):
    with pytest.raises(ValueError, match=r"there is no lift .*\(choices: balanced, "):
        catalog.build(lifts, Lift, spec)


def test_choose_names_the_value_the_nearest_and_the_valid_ones():
    assert catalog.choose("b", ["a", "b"], what="letter") == "b"
    with pytest.raises(
        ValueError, match=r"^there is no colour 'gren'; did you mean 'green'\? \(choices: red, green\)$"
    ):
        catalog.choose("gren", ["red", "green"], what="colour")
    with pytest.raises(ValueError, match=r"^there is no colour 'zzz' \(choices: red, green\)$"):
        catalog.choose("zzz", ["red", "green"], what="colour")


def test_a_new_file_is_found_without_touching_a_list(tmp_path, monkeypatch):
    (tmp_path / "halved.py").write_text(
        "from dataclasses import dataclass\n"
        "from pinn_lora.lifts import Lift\n"
        "@dataclass(frozen=True)\n"
        "class Halved(Lift):\n"
        '    """Half of the gradients."""\n'
        "    def velocity(self, pair, g_B, g_A, metric):\n"
        "        return -g_B / 2, -g_A / 2\n"
    )
    (tmp_path / "_private.py").write_text("raise RuntimeError\n")
    (tmp_path / "two.py").write_text("from pinn_lora.lifts import Lift\nclass A(Lift): pass\nclass B(Lift): pass\n")
    package = types.ModuleType("some_lifts")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "some_lifts", package)
    assert catalog.names(package) == ["halved", "two"]
    assert type(catalog.build(package, Lift, "halved")).__name__ == "Halved"
    with pytest.raises(TypeError, match=r"some_lifts\.two must define exactly one Lift, it defines 2"):
        catalog.find(package, Lift, "two")
    for name in ("some_lifts.halved", "some_lifts.two"):
        sys.modules.pop(name, None)
