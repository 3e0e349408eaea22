"""What a class says of itself: one sentence with its file and line for what cannot be used, wherever it is used."""

from dataclasses import dataclass

import pytest

import pinn_lora as pl
from pinn_lora.declaration import check_declaration, mistakes
from pinn_lora.places import ProblemError
from pinn_lora.problem_file import problem_in_file

DECAY = """from dataclasses import dataclass

import pinn_lora as pl


@dataclass(frozen=True)
class Decay(pl.Problem):
    k: float = 1.0
    domain = pl.Domain(t=(0.0, 1.0))
    fields = ("u",)
    periodic = ()

    def residual(self, p, u):
        return u.t + self.k * u

    def conditions(self):
        return [pl.initial(lambda p: 1.0)]
"""


def decay(tmp_path, old: str = "", new: str = ""):
    """The class of a file with a piece of it replaced."""
    assert DECAY.count(old) == 1 or not old
    (tmp_path / "decay.py").write_text(DECAY.replace(old, new) if old else DECAY)
    return problem_in_file(tmp_path / "decay.py")


BROKEN = {
    "fields as a number": ('fields = ("u",)', "fields = 2", r'line 10: Decay: fields is 2; .* fields = \("u",\)$'),
    "fields as a text": ('fields = ("u",)', 'fields = "u"', r"line 10: Decay: fields is 'u'; name the unknowns"),
    "no fields": ('fields = ("u",)', "fields = ()", r"line 10: Decay: fields is \(\); name the unknowns"),
    "fields twice": ('("u",)', '("u", "u")', r"line 10: Decay: fields names an unknown twice: u, u$"),
    "period of none": ("periodic = ()", "periodic = None", r"line 11: Decay: periodic is None; name coordinates"),
    "period as a text": ("periodic = ()", 'periodic = "t"', r"line 11: Decay: periodic is 't'; .* periodic = \("),
    "period of nothing": ("= ()", '= ("x",)', r"line 11: Decay: periodic names 'x', which is no .*: t\)$"),
    "no domain": ("domain =", "room =", r"line 6: Decay: domain is missing: Decay has no domain; write domain = "),
    "a list": ("pl.Domain(t=(0.0, 1.0))", "[(0, 1)]", r"line 9: Decay: domain is \[\(0, 1\)\]; write domain = "),
    "code that fails": (
        "    periodic = ()\n",
        "    @property\n    def periodic(self):\n        return self.missing\n",
        r"line 13: Decay: 'Decay' object has no attribute 'missing'$",
    ),
    "no conditions": ("[pl.initial(lambda p: 1.0)]", "None", r"line 16: Decay: conditions gives None; give a list"),
    "a bare condition": (
        "[pl.initial(lambda p: 1.0)]",
        "pl.initial(lambda p: 1.0)",
        r"line 16: Decay: conditions gives a Condition; give a list of them, \[\] where there are none$",
    ),
    "conditions that are made later": ("return [pl", "yield [pl", r"line 16: Decay: conditions gives a generator;"),
    "a function": ("[pl.initial(lambda p: 1.0)]", "[lambda p: 1.0]", r"line 16: .* lists a function; each must be a"),
    "no residual": (
        "def residual",
        "def residuum",
        r"line 6: Decay: residual is missing: Decay has no residual; define",
    ),
    "a value that is no function": (
        "pl.initial(lambda p: 1.0)",
        "pl.initial(1.0)",
        r"line 17: Decay: initial: value is 1\.0; give a function of the points, as lambda p: 0\.0$",
    ),
    "no such derivative": (
        "lambda p: 1.0)]",
        "lambda p: 1.0, derivative=-1)]",
        r"line 17: Decay: derivative is -1; it must be a whole number, at least 0$",
    ),
    "no derivative of a period": (
        "pl.initial(lambda p: 1.0)",
        'pl.periodic(on="t", derivatives=-1)',
        r"line 17: Decay: derivatives is -1; it must be a whole number, at least 0$",
    ),
    "no such unknown": (
        "lambda p: 1.0)]",
        "lambda p: 1.0, field=1)]",
        r"line 17: Decay: field is 1, and the fields are numbered from 0 to 0$",
    ),
    "data that are not finite": (
        "pl.initial(lambda p: 1.0)",
        "pl.data([[0.2], [0.5]], [1.0, float('nan')])",
        r"line 17: Decay: data: 1 of 2 values are not finite$",
    ),
    "no such side": (
        "pl.initial(lambda p: 1.0)",
        'pl.dirichlet(lambda p: 1.0, on="t", side="left")',
        r"line 17: Decay: there is no side 'left' \(choices: both, lower, upper\)$",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_is_one_sentence_before_anything_is_made(name, tmp_path, command):
    old, new, sentence = BROKEN[name]
    problem = decay(tmp_path, old, new)()
    with pytest.raises(ProblemError, match=rf"decay\.py, {sentence}") as caught:
        pl.pretrain(problem, width=4, depth=1, points=8, max_steps=1)
    assert "\n" not in str(caught.value)
    code, out, err = command("check", tmp_path / "decay.py")
    assert code == 1 and str(caught.value) in out and not err


def test_every_mistake_is_told(tmp_path):
    found = dict(mistakes(decay(tmp_path, 'fields = ("u",)\n    periodic = ()', "fields = 2\n    periodic = 3")()))
    assert set(found) == {"fields", "periodic"}
    check_declaration(decay(tmp_path)())


def test_a_family_of_it_is_one_sentence_and_exit_code_2(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decay(tmp_path, "[pl.initial(lambda p: 1.0)]", "None")
    (tmp_path / "decay.toml").write_text(
        'name = "d"\ntitle = "d"\nproblem = "decay.py"\nbase = { k = 1.0 }\nmembers = [{ k = 2.0 }]\n'
    )
    code, _, err = command("family", "decay.toml", "--quiet")
    assert code == 2 and err == "error: decay.py, line 16: Decay: conditions gives None; give a list of them, " + (
        "[] where there are none\n"
    )


MADE = {
    "1.0 / (self.k - self.k)": r"line 14: Decay\(k=2\.0\): ZeroDivisionError: float division by zero",
    "self.extra = 1.0": r"line 14: Decay\(k=2\.0\): cannot assign to field 'extra'",
    "exit(3)": r"line 14: Decay\(k=2\.0\): SystemExit: 3",
    "self.k.strip()": r"line 14: Decay\(k=2\.0\): 'float' object has no attribute 'strip'",
}


@pytest.mark.parametrize("line", MADE)
def test_what_fails_while_it_is_made_names_the_line_and_the_coefficients(line, tmp_path, command):
    cls = decay(tmp_path, "    def residual", f"    def __post_init__(self):\n        {line}\n\n    def residual")
    with pytest.raises(ProblemError, match=rf"decay\.py, {MADE[line]}$"):
        cls(k=2.0)
    code, out, err = command("check", tmp_path / "decay.py", "--set", "k=2.0")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "decay.py, line 14: Decay(k=2.0)" in err


def test_a_sentence_of_the_problems_own_stays_as_it_is(tmp_path, command):
    check = '    def __post_init__(self):\n        raise ValueError(f"k is {self.k}; it must be 0")\n\n    def residual'
    cls = decay(tmp_path, "    def residual", check)
    with pytest.raises(ValueError, match=r"^k is 2\.0; it must be 0$"):
        cls(k=2.0)
    _, _, err = command("check", tmp_path / "decay.py", "--set", "k=2.0")
    assert err.endswith("decay.py, line 14: k is 2.0; it must be 0\n")


def test_a_coefficient_of_the_wrong_kind_is_named_with_its_problem():
    from pinn_lora.problems.burgers import Burgers

    with pytest.raises(ProblemError, match=r"burgers\.py, line \d+: Burgers\(nu='1e-3', .*TypeError: "):
        Burgers(nu="1e-3")  # type: ignore[arg-type]


def test_a_class_without_a_file_is_named_by_its_module():
    made = {"pl": pl, "dataclass": dataclass, "__name__": "nowhere"}
    exec("@dataclass(frozen=True)\nclass Bare(pl.Problem):\n    fields = 2\n", made)
    with pytest.raises(ProblemError, match=r"^nowhere: Bare: fields is 2; "):
        check_declaration(made["Bare"]())
