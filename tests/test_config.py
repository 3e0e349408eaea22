"""Configs: what is accepted, and the one sentence for everything that is not."""

import math
import tomllib

import pytest

from pinn_lora.config import ConfigError, check_config, coefficient, load_config, load_problem, setting
from pinn_lora.configs import configs_folder
from pinn_lora.plan import plan_cases, plan_jobs, weights_of
from pinn_lora.presets import preset_of

MINIMAL = """
name = "x"
title = "X"
[[case]]
problem = "burgers"
base = { nu = "0.1/pi" }
target = { nu = 0.05 }
[[method]]
name = "lora-adam"
"""
DECAY = '''from dataclasses import dataclass
import pinn_lora as pl
@dataclass(frozen=True)
class Decay(pl.Problem):
    """u_t = -k u."""
    k: float = 1.0
    domain = pl.Domain(t=(0.0, 1.0))
    def residual(self, p, u):
        return u.t + self.k * u
'''


def check(text):
    return check_config(tomllib.loads(text), where="x.toml")


def test_a_mistake_that_is_made_several_times_is_said_once_with_its_places():
    """What differs, in the value or in what could be meant, is said by itself, and so is what is missing."""
    typo = '[[method]]\nname = "lora-sgd"\nmax_step = 3\n'
    text = (
        MINIMAL.replace("[[method]]", "rank = 0\npretrain = { max_step = 3 }\n[[method]]")
        + "max_step = 3\n"
        + typo
        + typo
    )
    text += "[[method]]\nmax_steps = 0\n[[method]]\nmax_steps = -1\n"
    with pytest.raises(ConfigError) as error:
        check(text)
    said = str(error.value).split("x.toml: ")
    why = "there is no key 'max_step'; did you mean 'max_steps'? (choices: "
    assert str(error.value).count("did you mean") == 2, "those of a method are other than those of a pretraining"
    (pretrain,) = [one for one in said if one.startswith("case 1, pretrain.max_step")]
    assert pretrain.startswith(f"case 1, pretrain.max_step: {why}method, ")
    (methods,) = [one for one in said if one.startswith("method 1, max_step")]
    assert methods.startswith(f"method 1, max_step and method 2, max_step and method 3, max_step: {why}name, ")
    assert any(
        one.startswith("case 1, rank = 0 and method 4, max_steps = 0 and method 5, max_steps = -1: it") for one in said
    )
    assert "method 4, name is missing; " in said and len(said) == 1 + 5


def test_a_mistake_in_more_than_three_places_names_two_of_them():
    with pytest.raises(ConfigError) as error:
        check(MINIMAL + "".join(f'max_step = {n}\n[[method]]\nname = "lora-sgd"\n' for n in range(4)))
    assert str(error.value).startswith(
        "x.toml: method 1, max_step and method 2, max_step and 2 more places: there is no"
    )


STUDIES = [path for path in sorted(configs_folder().glob("*.toml")) if "case" in tomllib.loads(path.read_text())]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_config_of_the_package_can_be_planned(path):
    config = load_config(path)
    assert config.name == path.stem
    cases = plan_cases(config)
    jobs = plan_jobs(config, cases)
    assert jobs and len({job.id for job in jobs}) == len(jobs), "two runs would share a folder"


def test_minimal_config_takes_the_presets_defaults():
    config = check(MINIMAL)
    (job,) = plan_jobs(config, plan_cases(config))
    assert (job.method.name, job.start, job.step_size, job.seed) == ("lora-adam", "zero_b", 1e-2, 0)
    assert job.case.base.nu == pytest.approx(0.1 / math.pi) and job.case.target.nu == 0.05


def test_starts_step_sizes_and_seeds_are_crossed():
    text = MINIMAL.replace('title = "X"', 'title = "X"\nseeds = [1, 2]')
    text += 'starts = ["zero_b", "balanced"]\nstep_sizes = [0.1, 0.01, 0.001]\n'
    config = check(text)
    assert len(plan_jobs(config, plan_cases(config))) == 2 * 3 * 2
    tuned = check(text.replace("[[method]]", "full_scan = false\n[[method]]"))
    assert len(plan_jobs(tuned, plan_cases(tuned))) == 2 * 3, "the first seed alone tunes the step size"


def test_a_base_can_be_made_by_a_method_of_its_own_parts():
    parts = 'pretrain = { method = { integrator = { name = "rosenbrock_euler", acceleration = 0.0 } }, max_steps = 5 }'
    (case,) = check(MINIMAL.replace("[[method]]", parts + "\n[[method]]")).case
    options = case.pretrain.options
    assert set(options) == {"method", "max_steps"} and options["method"].integrator.acceleration == 0.0
    for wrong, sentence in (
        ('{ integrater = "euler" }', "there is no part of a method 'integrater'"),
        ('{ integrator = "eular" }', "there is no integrator 'eular'"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check(MINIMAL.replace("[[method]]", f"pretrain = {{ method = {wrong} }}\n[[method]]"))


def test_step_sizes_that_round_alike_are_runs_of_their_own():
    config = check(MINIMAL + "step_sizes = [1.5e-3, 2e-3, 2.4e-3]\n")
    assert len({job.id for job in plan_jobs(config, plan_cases(config))}) == 3


@pytest.mark.parametrize(
    ("twice", "told"),
    [
        ("step_sizes = [1e-2, 0.01]", "step size 0.01"),
        ("step_sizes = [0.2, 0.1000000001, 0.1]", "step size 0.1"),  # their runs would share a folder
        ('starts = ["zero_b", "zero_b"]', "start zero_b"),
    ],
)
def test_a_step_size_or_start_that_stands_twice_is_named_with_its_method(twice, told):
    """So no two runs share a folder."""
    with pytest.raises(
        ConfigError, match=rf"^x\.toml: method 1: the {told} of lora-adam stands 2 times; give it once$"
    ):
        check(f"{MINIMAL}{twice}\n")


@pytest.mark.parametrize(
    "change", ['base = { nu = "0.10001/pi" }', 'weights = { residual = 2.0 }\nbase = { nu = "0.1/pi" }']
)
def test_bases_made_differently_are_not_shared(change):
    plain, other = check(MINIMAL), check(MINIMAL.replace('base = { nu = "0.1/pi" }', change))
    assert plan_cases(plain)[0].base_id != plan_cases(other)[0].base_id
    assert plan_cases(plain)[0].base_id == plan_cases(check(MINIMAL))[0].base_id


def test_files_that_define_one_class_name_differently_share_no_base(tmp_path):
    """A built-in problem's base keeps its name, and one file at two paths is one problem."""
    for name, term in (("a", "u"), ("b", "u**2"), ("c", "u")):
        (tmp_path / f"{name}.py").write_text(DECAY.replace("self.k * u", f"self.k * {term}"))
    case = '[[case]]\nproblem = "a.py"\nbase = { k = 1.0 }\ntarget = { k = 2.0 }\n'
    text = "".join(case.replace("a.py", f"{name}.py") for name in "abc")
    text = MINIMAL[: MINIMAL.index("[[case]]")] + text + MINIMAL[MINIMAL.index("[[method]]") :]
    a, b, c = (found.base_id for found in plan_cases(check(text), origin=tmp_path))
    assert a == c != b
    assert plan_cases(check(MINIMAL))[0].base_id == "burgers-nu0.03183-ansatz-3x24-e2c54708"


def test_a_case_may_name_its_network():
    plain = plan_cases(check(MINIMAL))[0]
    assert plain.network == "3 x 24"
    for spec, told in (
        ('"mlp"', "3 x 24"),
        ('{ activation = "sin" }', "3 x 24, activation sin"),
        ('{ name = "pirate_net", fourier = 4, factorised = true }', "pirate_net 3 x 24, factorised True, fourier 4"),
    ):
        case = plan_cases(check(MINIMAL.replace("[[method]]", f"network = {spec}\n[[method]]")))[0]
        assert case.network == told
        assert (case.base_id == plain.base_id) == (case.network == plain.network)


def test_method_of_its_own_parts():
    config = check(MINIMAL.replace('name = "lora-adam"', 'name = "mine"\nlift = "balanced"\nintegrator = "midpoint"'))
    preset = config.method[0].preset()
    assert type(preset.method.integrator).__name__ == "Midpoint" and type(preset.method.lift).__name__ == "Balanced"


@pytest.mark.parametrize(
    ("parts", "step_size", "max_steps"),
    [
        ('lift = "balanced"\nintegrator = "heun"\ndecay = true', 1e-3, 5000),
        ('optimizer = "adam"\ntrains = "all weights"', 1e-3, 5000),
        ('integrator = "bogacki_shampine"', 1.0, 5000),
        ('integrator = "rosenbrock_euler"', 1.0, 80),
    ],
)
def test_a_method_of_its_own_parts_has_the_defaults_of_finetune(parts, step_size, max_steps):
    preset = check(MINIMAL.replace('name = "lora-adam"', f'name = "mine"\n{parts}')).method[0].preset()
    for found in (preset, preset_of(preset.method)):
        assert (found.step_size, found.max_steps) == (step_size, max_steps)


def test_decay_is_a_part():
    text = MINIMAL.replace('name = "lora-adam"', 'name = "mine"\ndecay = true\nlift = "weighted"\nmetric = "adafactor"')
    assert check(text).method[0].preset().method.decay
    with pytest.raises(ConfigError, match="lora-adam is a preset; give a method of your own parts another name"):
        check(MINIMAL + "decay = true\n")
    with pytest.raises(
        ConfigError, match="mine has an optimizer, which is whole: leave metric, lift, integrator and decay out"
    ):
        check(text + 'optimizer = "adam"\n')


@pytest.mark.parametrize(
    ("parts", "part"),
    [
        ('lift = "balanced"', r"lift Balanced\(.*\)"),
        ('lift = "weighted"\nmetric = "adafactor"', r"lift Weighted\(.*\)"),
        ('lift = { name = "chain_rule", ratio = 16.0 }', r"lift ChainRule\(ratio=16\.0\)"),
        ('optimizer = { name = "adam", lift = "balanced" }', r"lift Balanced\(.*\)"),
        ('optimizer = { name = "adam", ratio = 16.0 }', r"ratio 16\.0"),
    ],
)
def test_what_acts_on_factors_alone_is_refused_where_all_weights_are_trained(parts, part):
    text = MINIMAL.replace('name = "lora-adam"', f'name = "mine"\n{parts}')
    assert check(text).method[0].preset().trains == "factors"
    sentence = (
        rf"^x\.toml: the {part} is of factors and would do nothing where all weights are trained; leave it out, or"
    )
    with pytest.raises(ConfigError, match=sentence):
        check(text + 'trains = "all weights"\n')
    if "optimizer" not in parts:
        made = f"pretrain = {{ method = {{ {parts.replace(chr(10), ', ')} }} }}\n"
        with pytest.raises(ConfigError, match=sentence.replace(r"x\.toml", "case 1")):
            plan_cases(check(MINIMAL.replace("[[method]]", made + "[[method]]")))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            'title = "X"',
            'titel = "X"',
            "x.toml: title is missing; x.toml: titel: there is no key 'titel'; did you mean 'title'",
        ),
        ('title = "X"', 'title = "X"\nseeds = "0"', "seeds = '0': give a list"),
        ('title = "X"', 'title = "X"\nseeds = [0, 1, 0]', "seeds = [0, 1, 0]: a seed stands twice"),
        ('title = "X"', 'title = "X"\njobs = 0', "jobs = 0: it must be at least 1"),
        ('title = "X"', 'title = "X"\ndtype = "float16"', "dtype = 'float16': it must be 'float32' or 'float64'"),
        (
            'name = "x"',
            'name = "a/b"',
            "name = 'a/b': take letters, digits, - and _, beginning with a letter or a digit",
        ),
        (
            'name = "lora-adam"',
            'name = "my/adam"\noptimizer = "adam"',
            "method 1, name = 'my/adam': take letters, digits",
        ),
        ('name = "lora-adam"', 'name = "lora-adm"', "there is no method 'lora-adm'; did you mean 'lora-adam'?"),
        ('name = "lora-adam"', 'name = "lora-adam"\nstep_size = 1', "did you mean 'step_sizes'"),
        ('name = "lora-adam"', 'name = "lora-adam"\nstep_sizes = [0.0]', "each must be a positive number"),
        ('name = "lora-adam"', 'name = "lora-adam"\nstarts = ["zero"]', "there is no start 'zero'"),
        ('name = "lora-adam"', 'name = "full-adam"\nstarts = ["zero_b"]', "trains all weights, so it has no start"),
        ('name = "lora-adam"', 'name = "m"\nlift = "balancd"', "there is no lift 'balancd'; did you mean 'balanced'?"),
        (
            'name = "lora-adam"',
            'name = "m"\nlift = { name = "balanced", esp = 1 }',
            "there is no option of balanced 'esp'",
        ),
        (
            'name = "lora-adam"',
            'name = "m"\noptimizer = { name = "rad", beta1 = 1.0 }',
            "rad: beta1 is 1.0; it must be at least 0 and below 1",
        ),
        (
            'name = "lora-adam"',
            'name = "m"\nlift = "lora_pro"\nintegrator = "rosenbrock_euler"',
            "x.toml: RosenbrockEuler needs the lift's mass and LoRAPro(gauge='sylvester', eps=0.0001) has none;",
        ),
        (
            'name = "lora-adam"',
            'name = "m"\nmetric = "adafactor"',
            "x.toml: ChainRule follows the same direction whatever the metric is",
        ),
        ('name = "lora-adam"', 'name = "lora-adam"\ncases = [2]', "names case 2; there are cases 1 to 1"),
        ('problem = "burgers"', 'problem = "burger"', "there is no problem 'burger'; did you mean 'burgers'?"),
        ("nu = 0.05", "mu = 0.05", "there is no coefficient of burgers 'mu'; did you mean 'nu'?"),
        ("nu = 0.05", "nu = -1.0", "burgers: Burgers: the viscosity nu is -1.0; it must be a positive number"),
        ("nu = 0.05", 'nu = 0.05, form = "hard"', "there is no form 'hard'"),
        (
            "[[method]]",
            "rank = 99\n[[method]]",
            "case 1: lora-adam from zero_b: rank 99 does not fit the 24 x 24 layer 'layers.1'; choose 1 to 24",
        ),
        ("[[method]]", 'network = "mpl"\n[[method]]', "case 1: there is no network 'mpl'; did you mean 'mlp'?"),
        (
            "[[method]]",
            'network = { name = "pirate_net", furier = 3 }\n[[method]]',
            "case 1: there is no option of pirate_net 'furier'; did you mean 'fourier'?",
        ),
        (
            "[[method]]",
            "network = { fourier = true }\n[[method]]",
            "case 1: option fourier of mlp is True; it must be of type int",
        ),
        (
            "target = { nu = 0.05 }",
            'target = { nu = 0.05, form = "soft" }\nweights = { dirichlet = 1.0, inital = 2.0 }',
            "case 1: there is no loss term 'inital' to weigh (terms: residual, initial, dirichlet)",
        ),
        (
            "[[method]]",
            "weights = { residual = -1.0 }\n[[method]]",
            "case 1: the weight of residual is -1.0; it must be a finite number, at least 0",
        ),
        (
            "[[method]]",
            'pretrain = { method = "full-lmm" }\n[[method]]',
            "case 1: there is no pretraining method 'full-lmm'; did you mean 'full-lm'?",
        ),
        ("nu = 0.05", 'nu = "0.2*pie"', """burgers: nu is '0.2*pie'; give a number, or one like "0.01/pi\""""),
        ("nu = 0.05", "nu = [0.05]", "burgers: nu is [0.05]; give a number"),
        ("nu = 0.05", "nu = true", "burgers: nu is True; give a number"),
        ("nu = 0.05", 'nu = "1.2.3/pi"', "burgers: nu is '1.2.3/pi'; give a number"),
        ("nu = 0.05", "nu = 1" + 400 * "0", ": Burgers(nu=1000"),
        ('title = "X"', 'title = "X"\nseeds = [-1]', "seeds 1 = -1: it must be at least 0"),
        ('title = "X"', 'title = "X"\nseeds = [0, "a"]', "x.toml: seeds 2 = 'a': give a whole number"),
        ('title = "X"', 'title = "X"\nseeds = []', "seeds = []: give at least one"),
        ('title = "X"', 'title = "X"\ncompile = "yes"', "compile = 'yes': give true or false"),
        ('title = "X"', "title = 3", "title = 3: give a text"),
        ("[[method]]", "rank = 0\n[[method]]", "x.toml: case 1, rank = 0: it must be at least 1"),
        ("[[method]]", "network = 3\n[[method]]", "case 1, network = 3: give a text or a table"),
        ("[[method]]", "pretrain = 3\n[[method]]", "case 1, pretrain = 3: give a table"),
        (
            "[[method]]",
            "pretrain = { max_seconds = 0 }\n[[method]]",
            "case 1, pretrain.max_seconds = 0: it must be above 0",
        ),
        ("[[method]]", 'weights = { residual = "a" }\n[[method]]', "case 1, weights.residual = 'a': give a number"),
        ('problem = "burgers"\n', "", "x.toml: case 1, problem is missing"),
        ('name = "lora-adam"', 'name = "lora-adam"\nstep_sizes = []', "method 1, step_sizes = []: give at least one"),
        (
            'name = "lora-adam"',
            'name = "lora-adam"\nstep_sizes = [0.1, "a"]',
            "method 1, step_sizes 2 = 'a': give a number",
        ),
        ('title = "X"', f'title = "X"\nseeds = [{2**62}]', f"seeds 1 = {2**62}: it must be below {2**62}"),
        ('title = "X"', 'title = "X"\ndevice = "cuda:99"', "the device 'cuda:99' cannot be used here"),
    ],
)
def test_bad_input_gets_one_sentence(old, new, sentence):
    with pytest.raises(ConfigError) as raised:
        plan_cases(check(MINIMAL.replace(old, new)))
    message = str(raised.value)
    assert "\n" not in message and "Traceback" not in message
    for part in sentence.split("; x.toml"):
        assert part in message


def test_each_problem_of_a_case_takes_the_weights_of_its_own_terms():
    """The base has no soft conditions, its target has."""
    weights = "weights = { residual = 3.0, initial = 2.0 }"
    text = MINIMAL.replace("target = { nu = 0.05 }", f'target = {{ nu = 0.05, form = "soft" }}\n{weights}')
    (case,) = plan_cases(check(text))
    assert weights_of(case.config, case.base) == {"residual": 3.0}
    assert weights_of(case.config, case.target) == {"residual": 3.0, "initial": 2.0}


def test_file_that_is_not_there_or_not_toml(tmp_path):
    with pytest.raises(ConfigError, match="there is no config file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes('name = "a"\ntitle = "\xe9t\xe9"\n'.encode("latin-1"))
    with pytest.raises(
        ConfigError, match=r"latin.toml is not valid TOML: its byte 21 is no UTF-8; save it as UTF-8 text$"
    ):
        load_config(tmp_path / "latin.toml")


def test_coefficients():
    assert coefficient("0.01/pi") == 0.01 / math.pi
    assert coefficient("-2e1 * pi") == -20.0 * math.pi
    assert coefficient("soft") == "soft" and coefficient(3.0) == 3.0


def test_settings_of_the_command_line():
    assert setting("k=2") == ("k", 2) and setting("k = 2.5") == ("k", 2.5) and setting("k=-1e-3") == ("k", -1e-3)
    assert setting("nu=0.01/pi") == ("nu", "0.01/pi") and setting("form=soft") == ("form", "soft")
    for text in ("nu", "nu=", "=1", ""):
        with pytest.raises(ConfigError, match=r"sets nothing; write NAME=VALUE, for example nu=0\.01/pi"):
            setting(text)


def test_problem_from_a_file_of_ones_own(tmp_path):
    path = tmp_path / "decay.py"
    path.write_text(DECAY)
    problem = load_problem(str(path), {"k": 2.0})
    assert problem.k == 2.0 and type(problem).__name__ == "Decay"
    assert type(load_problem("decay.py", {}, folder=tmp_path)) is type(problem), "from the folder, and imported once"
    path.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="must define exactly one Problem; it defines 0"):
        load_problem(str(path), {})
    with pytest.raises(ConfigError, match="there is no problem file"):
        load_problem(str(tmp_path / "none.py"), {})


def test_a_familys_config_is_sent_to_its_own_command(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\nproblem = "burgers"\nbase = {}\n')
    with pytest.raises(ConfigError, match=rf"{path} is the config of a family; run it with: pinn-lora family {path}"):
        load_config(path)
