"""What a study's plan refuses: every combination that could not be started, before anything is trained or written."""

import itertools
import sys
import tomllib

import pytest
from pinn_lora.problems.reaction import Reaction

import pinn_lora as pl
from pinn_lora import catalog, initializers, optimizers
from pinn_lora.cli import main
from pinn_lora.config import ConfigError, check_config
from pinn_lora.configs import configs_folder
from pinn_lora.families.config import load_family
from pinn_lora.families.study import run_family
from pinn_lora.objective import Objective
from pinn_lora.optimizers import Optimizer
from pinn_lora.plan import check_start, plan_cases, plan_jobs
from pinn_lora.presets import PRESETS, find_preset
from pinn_lora.training import network_for

STUDY = """
name = "x"
title = "X"
[[case]]
problem = "burgers"
base = { nu = "0.1/pi" }
target = { nu = "0.2/pi" }
width = 8
depth = 3
rank = 2
[[method]]
"""
MANY = """
from dataclasses import dataclass
import pinn_lora as pl


@dataclass(frozen=True)
class Many(pl.Problem):
    FIELDS
    domain = pl.Domain(t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t + u
"""
FAMILIES = [path for path in sorted(configs_folder().glob("*.toml")) if "case" not in tomllib.loads(path.read_text())]


def planned(text: str):
    config = check_config(tomllib.loads(text), where="x.toml")
    return plan_jobs(config, plan_cases(config))


def refusal(begin, *arguments, **options) -> str:
    """The sentence with which `begin` refuses; empty where it does not."""
    try:
        begin(*arguments, **options)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture
def nothing_is_trained(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a step was taken or a base pretrained before the plan was checked")

    monkeypatch.setattr("pinn_lora.study.pretrain", refuse)
    monkeypatch.setattr("pinn_lora.study.finetune", refuse)
    monkeypatch.setattr("pinn_lora.families.study.pretrain", refuse)


@pytest.mark.parametrize(
    ("method", "rank", "sentence"),
    [
        ('name = "od-lora"\nstarts = ["zero_b"]', 2, "od-lora from zero_b: od_lora "),
        ('name = "mine"\noptimizer = "od_lora"\nstarts = ["balanced"]', 2, "mine from balanced: od_lora "),
        ('name = "cayley"\nstarts = ["balanced", "zero_b"]', 2, "cayley from zero_b: cayley rotates B"),
        (
            'name = "lora-adam"\nstarts = ["lora_ga"]',
            5,
            "lora-adam from lora_ga: lora_ga takes 2 r = 10 singular vectors",
        ),
        ('name = "od-lora"', 5, "layer 'layers.1', as this method's factors have 2 times the rank; choose 1 to 4"),
        ('name = "m"\noptimizer = "od_lora"\ntrains = "all weights"', 2, "m: od_lora works on LoRA factors"),
        ('name = "m"\noptimizer = "lora_rite"\ntrains = "all weights"', 2, "m: lora_rite works on LoRA factors"),
        ('name = "m"\noptimizer = { name = "sd_lora", rank = 3 }', 2, "no multiple of the pairs' rank 3"),
        (
            'name = "lora-adam"',
            9,
            "lora-adam from zero_b: rank 9 does not fit the 8 x 8 layer 'layers.1'; choose 1 to 8",
        ),
    ],
)
@pytest.mark.usefixtures("nothing_is_trained")
def test_what_cannot_be_started_ends_with_exit_code_2_and_nothing_written(
    method, rank, sentence, tmp_path, monkeypatch, capsys
):
    """It stands after a method that could be run, so that it is not found by chance first."""
    text = STUDY.replace("rank = 2", f"rank = {rank}") + f'name = "full-lm"\n[[method]]\n{method}\n'
    (tmp_path / "x.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pinn-lora", "run", "x.toml", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and not said.out
    assert said.err.startswith("error: case 1: ") and sentence in said.err and said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]


def test_the_plan_refuses_what_finetune_refuses_and_nothing_else():
    """Every start, with a method that takes any, one that needs a B and one that doubles the rank."""
    base = pl.Solution(Reaction(rho=2.0), network_for(Reaction(), width=8, depth=2), None, (), pl.Status.COMPLETED, {})
    outcomes = set()
    for start, (method, rank) in itertools.product(
        catalog.names(initializers), [("lora-sgd", 5), ("cayley", 2), ("od-lora", 2)]
    ):
        expected = refusal(check_start, find_preset(method), base.network, start=start, rank=rank)
        few = {"rank": rank, "max_steps": 1, "points": 40}
        assert expected == refusal(pl.finetune, base, Reaction(rho=3.0), method=method, initializer=start, **few)
        outcomes.add(bool(expected))
    assert outcomes == {True, False}


def test_every_preset_can_be_started_from_its_own_start_and_no_loss_is_asked_for(monkeypatch):
    network = network_for(Reaction(), width=8, depth=3)
    for name in ("gradient", "residuals", "jacobian", "value"):
        monkeypatch.delattr(Objective, name)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for preset in PRESETS.values():
        check_start(preset, network, start=None, rank=2)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_a_method_is_checked_in_its_own_cases_alone():
    second = STUDY[STUDY.index("[[case]]") : STUDY.index("[[method]]")].replace("rank = 2", "rank = 5")
    text = STUDY.replace("[[method]]", second + "[[method]]") + 'name = "od-lora"\ncases = [1]\n'
    text += '[[method]]\nname = "lora-adam"\ncases = [2]\n'
    assert {job.case.id[:2] for job in planned(text)} == {"01", "02"}
    with pytest.raises(ConfigError, match=r"^case 2: od-lora from \w+: rank 5 does not fit"):
        planned(text.replace("cases = [1]", ""))


def test_where_all_weights_are_trained_the_rank_is_not_asked_after():
    shallow = STUDY.replace("depth = 3", "depth = 1")
    assert planned(STUDY.replace("rank = 2", "rank = 9") + 'name = "full-lm"')
    assert planned(shallow + 'name = "full-lm"'), "no hidden layer to adapt, and none is needed"
    with pytest.raises(ConfigError, match="case 1: lora-lm from zero_b: targets='hidden' names no layer"):
        planned(shallow + 'name = "lora-lm"')


def test_what_may_not_fit_into_the_memory_is_left_to_the_run(monkeypatch):
    monkeypatch.setattr("pinn_lora.memory.available_mib", lambda device: 1e-6)
    assert planned(STUDY + 'name = "full-ssbroyden"')


def test_a_package_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ConfigError, match=r"^case 1: lora-rite from zero_b: LoRARite comes with another package: pip"):
        planned(STUDY + 'name = "lora-rite"')


@pytest.mark.usefixtures("nothing_is_trained")
@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_every_family_of_the_package_can_be_planned(path, tmp_path):
    """Its plan ends where the first base is to be made."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a results folder"):  # said after the plan, and before all else
        run_family(load_family(path), tmp_path, command="", source="", origin=path.parent, progress=False)


@pytest.mark.parametrize("optimizer", ["od_lora", "cayley"])
def test_an_optimizer_begins_from_its_own_start_where_none_is_given(optimizer):
    [job, *_] = planned(f'{STUDY}name = "mine"\noptimizer = "{optimizer}"\n')
    assert job.start == catalog.find(optimizers, Optimizer, optimizer).initializer != "zero_b"


def test_a_name_that_no_folder_can_have_is_refused_and_one_of_many_coefficients_is_cut(tmp_path):
    """A long method name is the user's to shorten; coefficients are not. Cases that differ in the last of them stay apart."""
    parts = 'optimizer = "adam"\n'
    assert planned(f'{STUDY}name = "{"m" * 100}"\n{parts}')
    with pytest.raises(ConfigError, match=r"^the method m{240} names folders of \d+ characters, and 250 is the most"):
        planned(f'{STUDY}name = "{"m" * 240}"\n{parts}')
    names = [f"a_rather_long_coefficient_{i}" for i in range(9)]
    fields = "".join(f"    {name}: float = 0.25\n" for name in names)
    (tmp_path / "many.py").write_text(MANY.replace("    FIELDS\n", fields))
    text = (
        STUDY.replace('"burgers"', '"many.py"')
        .replace('nu = "0.1/pi"', "")
        .replace('nu = "0.2/pi"', f"{names[-1]} = H")
    )
    found = []
    for value in ("0.5", "0.75"):
        config = check_config(tomllib.loads(text.replace("H", value) + 'name = "full-lm"'), where="x.toml")
        (case,) = plan_cases(config, origin=tmp_path)
        assert len(case.id) <= 150 and len(case.base_id) <= 180
        found.append(case)
    assert found[0].id != found[1].id and found[0].base_id == found[1].base_id


def test_a_preset_that_trains_factors_is_not_made_to_train_all_weights():
    with pytest.raises(ConfigError, match=r"^lora-adam trains factors; leave `trains` out, or choose .*\(.*full-adam"):
        planned(f'{STUDY}name = "lora-adam"\ntrains = "all weights"\n')
    assert planned(f'{STUDY}name = "full-adam"\ntrains = "all weights"\n')
    config = check_config(tomllib.loads(f'{STUDY}name = "full-adam"\n'), where="x.toml")
    again = check_config(config.model_dump(mode="json"), where="study.json")
    assert [job.id for job in plan_jobs(again, plan_cases(again))] == [
        job.id for job in planned(f'{STUDY}name = "full-adam"')
    ]


def test_a_name_is_of_one_method_in_all_cases():
    second = STUDY[STUDY.index("[[case]]") : STUDY.index("[[method]]")]
    text = STUDY.replace("[[method]]", second + "[[method]]") + 'name = "mine"\nlift = "balanced"\ncases = [1]\n'
    assert planned(f'{text}[[method]]\nname = "mine"\nlift = "balanced"\ncases = [2]\nstep_sizes = [0.1]\n')
    with pytest.raises(
        ConfigError, match=r"^the method mine has other parts in other cases; give each a name of its own$"
    ):
        planned(f'{text}[[method]]\nname = "mine"\nlift = "lora_pro"\ncases = [2]\n')


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rank = 2", "rank = 2\npretrain = { max_seconds = inf }", "pretrain.max_seconds = inf: give a finite number"),
        (
            '"full-lm"',
            '"full-lm"\nmax_seconds = inf',
            "method 1, max_seconds = inf: give a finite number, or leave it out",
        ),
        ('nu = "0.2/pi"', "dimension = 3", "case 1: the base has the coordinates x1, x2, and Poisson(dimension=3"),
    ],
)
def test_what_ended_in_an_error_of_ours_is_one_sentence(old, new, sentence):
    text = (STUDY + 'name = "full-lm"\n').replace(old, new)
    if "dimension" in new:
        text = text.replace('nu = "0.1/pi"', "dimension = 2").replace("burgers", "poisson")
    with pytest.raises(ConfigError) as raised:
        planned(text)
    assert sentence in str(raised.value)


def test_a_problem_without_coefficients_must_be_a_dataclass_too(tmp_path):
    (tmp_path / "plain.py").write_text(MANY.replace("@dataclass(frozen=True)\n", "").replace("    FIELDS\n", ""))
    text = STUDY.replace('"burgers"', '"plain.py"').replace('nu = "0.1/pi"', "").replace('nu = "0.2/pi"', "")
    config = check_config(tomllib.loads(text + 'name = "full-lm"'), where="x.toml")
    with pytest.raises(
        ConfigError, match=r"plain\.py, line \d+: Many is no frozen dataclass: write @dataclass\(frozen=True\)"
    ):
        plan_cases(config, origin=tmp_path)
