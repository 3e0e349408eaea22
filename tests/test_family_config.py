"""A family's config: what is accepted, the members that it means, and the one sentence for everything that is not."""

import math
import tomllib

import numpy as np
import pytest
from pinn_lora.problems.burgers import Burgers

from pinn_lora.config import ConfigError
from pinn_lora.configs import configs_folder
from pinn_lora.families.config import check_family, load_family
from pinn_lora.families.family import check_members

MINIMAL = """
name = "x"
title = "X"
problem = "burgers"
base = { nu = "0.01/pi", form = "soft" }
"""
VARY = 'vary = { nu = { from = "0.005/pi", to = "0.1/pi", count = 20 } }\n'
FAMILIES = [path for path in sorted(configs_folder().glob("*.toml")) if "base" in tomllib.loads(path.read_text())]


def check(text):
    return check_family(tomllib.loads(text), where="x.toml")


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_every_family_of_the_package_can_be_solved(path):
    config = load_family(path)
    assert config.name == path.stem
    base, members = config.problems()
    check_members(base, members, config.method)


def test_there_is_a_family_to_look_at():
    assert FAMILIES


def test_a_range_is_log_spaced_with_both_ends():
    base, members = check(MINIMAL + VARY).problems()
    assert base == Burgers(nu=0.01 / math.pi, form="soft")
    assert {member.form for member in members} == {"soft"}, "what does not vary is the base's"
    values = np.array([member.nu for member in members]) * math.pi
    np.testing.assert_allclose(values[1:] / values[:-1], 20 ** (1 / 19), rtol=1e-12)
    np.testing.assert_allclose(values[[0, -1]], [0.005, 0.1], rtol=1e-14)


def test_a_linear_range_and_several_coefficients_give_every_combination():
    text = 'name = "x"\ntitle = "X"\nproblem = "reaction_diffusion"\nbase = {}\n'
    text += (
        '[vary]\nnu = { from = 1, to = 3, count = 3, spacing = "linear" }\nrho = { from = 1.0, to = 4.0, count = 2 }\n'
    )
    _, members = check(text).problems()
    found = [(member.nu, member.rho) for member in members]
    np.testing.assert_allclose(found, [(1, 1), (1, 4), (2, 1), (2, 4), (3, 1), (3, 4)], rtol=1e-14)


def test_members_may_be_listed():
    _, members = check(MINIMAL + 'members = [{ nu = "0.02/pi" }, { nu = 0.05 }]').problems()
    assert members == [Burgers(nu=0.02 / math.pi, form="soft"), Burgers(nu=0.05, form="soft")]


def test_a_config_is_the_same_when_read_again():
    config = check(MINIMAL + VARY + "weights = { initial = 10.0 }\n")
    again = check_family(config.model_dump(mode="json", by_alias=True, exclude_none=True), where="again")
    assert again == config


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MINIMAL, "give either members, a list of coefficients, or vary, ranges of them"),
        (MINIMAL + VARY + "members = [{ nu = 0.1 }]", "give either members"),
        (MINIMAL + VARY.replace("count", "cuont"), "vary.nu.cuont: there is no key 'cuont'; did you mean 'count'?"),
        (MINIMAL + VARY.replace("from", "form"), "(choices: from, to, count, spacing)"),
        (MINIMAL + VARY.replace('"0.005/pi"', "0.0"), 'log spacing needs positive ends; or take spacing = "linear"'),
        (MINIMAL + VARY.replace("0.005/pi", "small"), "vary.nu.from = 'small': give a number, or one like \"0.01/pi\""),
        (MINIMAL + VARY.replace("20", "1"), "vary.nu.count = 1"),
        (MINIMAL + VARY + "seeds = [1, 1]", "seeds = [1, 1]: a seed stands twice"),
        (MINIMAL + VARY + 'method = "lora-lmm"', "did you mean 'lora-lm'?"),
        (MINIMAL + VARY + 'initializer = "zero"', "there is no start 'zero'"),
        (MINIMAL + VARY + "rnak = 4", "there is no key 'rnak'; did you mean 'rank'?"),
        (MINIMAL + VARY + "ranks = 4", "ranks = 4: give a list"),
        (MINIMAL + VARY + "ranks = [0]", "ranks 1 = 0: it must be at least 1"),
        (MINIMAL + VARY + "ranks = [2, 2]", "ranks = [2, 2]: a rank stands twice"),
        (MINIMAL + VARY + "rank_seeds = [0]", "rank_seeds is given without ranks; give the ranks to try"),
        (MINIMAL + VARY + "rank_members = [{ nu = 1.0 }]", "rank_members is given without ranks"),
        (MINIMAL + VARY + "ranks = [1]\nrank_seeds = [3]", "rank_seeds names seed 3, which has no base (choices: 0)"),
        (MINIMAL + VARY + "pretrain = { step = 3 }", "(choices: method, max_steps, max_seconds, points)"),
        (VARY, "name is missing"),
    ],
)
def test_mistakes_get_one_sentence(text, sentence):
    with pytest.raises(ConfigError) as raised:
        check(text)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith("x.toml: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MINIMAL + VARY + "from_scratch = 21", "from_scratch = 21, and there are 20 members"),
        (MINIMAL + VARY.replace("{ nu", "{ mu"), "there is no coefficient of burgers 'mu'"),
        (MINIMAL.replace('"burgers"', '"burgrs"') + VARY, "did you mean 'burgers'?"),
        (MINIMAL + "members = [{ nu = -1.0 }]", "burgers: Burgers: the viscosity nu is -1.0"),
    ],
)
def test_problems_that_cannot_be_built_get_one_sentence(text, sentence):
    with pytest.raises(ConfigError) as raised:
        check(text).problems()
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_studys_config_is_sent_to_its_own_command():
    path = configs_folder() / "smoke.toml"
    with pytest.raises(ConfigError, match=r"smoke\.toml is the config of a study; run it with: pinn-lora run "):
        load_family(path)
