"""Places: which line of whose file a sentence names."""

import pickle
import types
from pathlib import Path

import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import places
from pinn_lora.lora import Blocks
from pinn_lora.places import ProblemError, caller, files_of, naming, place, place_given, place_in, place_of, sentence
from pinn_lora.points import first_points

SOURCE = """
class Mine:
    def residual(self, p):
        return helper(p)

    @property
    def width(self):
        return 1.0 / 0.0


def helper(p):
    return p.missing
"""


def module(path: Path) -> types.ModuleType:
    path.write_text(SOURCE)
    made = types.ModuleType("mine")
    exec(compile(SOURCE, str(path), "exec"), vars(made))
    return made


def test_a_place_is_told_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "mine.py"
    file.write_text("")
    monkeypatch.chdir(tmp_path)
    assert place(str(file), 3) == place("sub/mine.py", 3) == f"{Path('sub') / 'mine.py'}, line 3"
    monkeypatch.chdir(tmp_path / "sub")
    assert place(str(file), 3) == "mine.py, line 3"
    monkeypatch.chdir(Path(places.__file__).parent)
    assert place(str(file), 3) == f"{file}, line 3", "not below the current folder"
    assert place("<stdin>", 3) == "<stdin>, line 3"


def test_where_a_function_begins(tmp_path):
    mine = module(tmp_path / "mine.py")
    assert place_of(mine.helper).endswith("mine.py, line 11")
    assert place_of(mine.Mine().residual).endswith("mine.py, line 3")
    assert place_of(len) == ""


def test_files_of_a_class_are_those_of_its_functions_and_bases(tmp_path):
    mine = module(tmp_path / "mine.py")
    assert files_of(mine.Mine) == {str(tmp_path / "mine.py")}
    child = type("Child", (mine.Mine,), {"other": lambda self: None})
    assert files_of(child) == {str(tmp_path / "mine.py"), __file__}


class Inherited:
    depth = 1


class Heir(Inherited):
    width = 2

    @property
    def height(self):
        return 3


def test_where_an_attribute_is_given():
    lines = Path(__file__).read_text().splitlines()
    at = lambda text: place(__file__, lines.index(text) + 1)  # noqa: E731
    assert place_given(Heir, "width") == at("    width = 2")
    assert place_given(Heir, "height") == at("    def height(self):")
    assert place_given(Heir, "depth") == at("    depth = 1"), "in the base that gives it"
    assert place_given(Heir, "missing") == at("class Heir(Inherited):")
    assert place_given(type("Made", (), {"__module__": "nowhere"}), "width") == "nowhere"


def test_the_caller_is_the_line_outside_of_the_package():
    found = caller()
    line = test_the_caller_is_the_line_outside_of_the_package.__code__.co_firstlineno + 1
    assert found.endswith(f"test_places.py, line {line}")


def test_an_error_is_named_by_the_innermost_line_of_the_problems_file(tmp_path):
    mine = module(tmp_path / "mine.py").Mine()
    with (
        pytest.raises(ProblemError, match=r"mine\.py, line 12: Mine: .*has no attribute 'missing'$") as caught,
        naming(mine),
    ):
        mine.residual(None)
    assert isinstance(caught.value.__cause__, AttributeError)
    with (
        pytest.raises(ProblemError, match=r"mine\.py, line 8: Mine: ZeroDivisionError: float division by zero$"),
        naming(mine),
    ):
        mine.width  # noqa: B018


def test_an_error_of_other_files_is_named_by_the_place_given(tmp_path):
    mine = module(tmp_path / "mine.py").Mine()
    with pytest.raises(ProblemError, match=r"^here, line 5: Mine: TypeError: ") as caught, naming(mine, "here, line 5"):
        torch.ones(2) @ "a"
    assert "\n" not in str(caught.value)


def test_a_function_given_as_the_place_is_looked_up_after_an_error_only(tmp_path, monkeypatch):
    mine = module(tmp_path / "mine.py")
    with pytest.raises(ProblemError, match=r"mine\.py, line 11: Mine: TypeError: "), naming(mine.Mine(), mine.helper):
        torch.ones(2) @ "a"

    def looked_up(file, line):
        raise AssertionError(f"{file}, line {line} was looked up")

    problem = Burgers(nu=0.02)
    network = pl.MLP(problem.domain, width=4, depth=1, periodic=problem.periodic)
    objective = pl.Objective(problem, network, Blocks(network), first_points(problem, 8, seed=0))
    theta = objective.blocks.read(network)
    monkeypatch.setattr("pinn_lora.places.place", looked_up)
    assert objective.gradient(theta)[0] > 0.0
    assert objective.value(theta) > 0.0


def test_what_is_named_already_or_is_no_mistake_passes(tmp_path):
    mine = module(tmp_path / "mine.py").Mine()
    with pytest.raises(ProblemError, match=r"^here: Mine: SystemExit: 3$"), naming(mine, "here"):
        raise SystemExit(3)
    for error in (ProblemError("a.py, line 1: x"), MemoryError("all of it"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, naming(mine):
            raise error
        assert caught.value is error


def test_a_problem_error_reaches_the_process_that_asked():
    assert str(pickle.loads(pickle.dumps(ProblemError("a.py, line 1: x")))) == "a.py, line 1: x"


def test_a_syntax_error_has_its_own_line(tmp_path):
    file = str(tmp_path / "mine.py")
    with pytest.raises(SyntaxError) as caught:
        compile("x = 1\ny = (2\n", file, "exec")
    assert place_in(caught.value, {file}) == f"{file}, line 2"
    assert sentence(caught.value) == "SyntaxError: '(' was never closed"
    assert place_in(caught.value, {"other.py"}) == ""


def test_a_sentence_is_one_line():
    assert sentence(ValueError("first\nsecond")) == "first"
    assert sentence(KeyError("k")) == "KeyError: 'k'"
    assert sentence(RuntimeError()) == "RuntimeError: RuntimeError"
