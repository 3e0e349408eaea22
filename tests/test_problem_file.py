"""A problem from a file: the class, the sentence for a file without one, and the way to another process."""

import pickle
import subprocess
import sys

import pytest

from pinn_lora.places import ProblemError
from pinn_lora.problem_file import problem_in_file

DECAY = """from dataclasses import dataclass
from functools import lru_cache

import pinn_lora as pl


@dataclass(frozen=True)
class Decay(pl.Problem):
    k: float = 1.0
    domain = pl.Domain(t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t + self.k * u

    def reference(self, p):
        return table(self.k)(p.t)


@lru_cache
def table(k):
    return lambda t: pl.exp(-k * t)
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "decay.py").write_text(DECAY)
    return tmp_path / "decay.py"


def test_the_class_is_the_same_until_the_file_changes(file, monkeypatch):
    cls = problem_in_file(file)
    assert cls.__name__ == "Decay" and cls(2.0).k == 2.0
    monkeypatch.chdir(file.parent)
    assert problem_in_file("decay.py") is cls
    file.write_text(DECAY.replace("self.k * u", "2.0 * self.k * u"))
    changed = problem_in_file(file)
    assert changed is not cls and changed.__name__ == "Decay"
    assert [path.name for path in file.parent.iterdir()] == ["decay.py"], "nothing is written beside it"


def test_files_of_one_name_in_two_folders_are_two(file, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "decay.py").write_text(DECAY)
    assert problem_in_file(tmp_path / "other" / "decay.py") is not problem_in_file(file)


def test_a_problem_goes_to_a_process_that_has_not_seen_its_file(file):
    sent = pickle.dumps({"problem": problem_in_file(file)(k=3.0)})
    script = """
import pickle, sys, torch
problem = pickle.loads(sys.stdin.buffer.read())["problem"]
print(problem, type(problem).__module__, problem.reference_values(torch.zeros(1, 1))[0, 0])
"""
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    module = problem_in_file(file).__module__
    assert done.stdout.decode().split() == ["Decay(k=3.0)", module, "1.0"]


IMPORT, TWO = "import pinn_lora as pl", "class More(pl.Problem):\n    pass\n\n\n@lru_cache\n"
BROKEN = {
    "syntax": (IMPORT, "import pinn_lora as pl)", r"line 4: SyntaxError: unmatched '\)'$"),
    "bounds": (
        "t=(0.0, 1.0)",
        "t=(1.0, 0.0)",
        r"line 10: coordinate t has bounds \(1\.0, 0\.0\); give finite lower < upper$",
    ),
    "import": (IMPORT, "import pinn_lore as pl", r"line 4: ModuleNotFoundError: No module named 'pinn_lore'$"),
    "name": ("pl.Problem", "pl.Problm", r"line 8: module 'pinn_lora' has no attribute 'Problm'"),
    "exit": (IMPORT, "import pinn_lora as pl; raise SystemExit(3)", r"line 4: SystemExit: 3$"),
    "none": (
        "(pl.Problem)",
        "",
        r"line 1: it must define .* one Problem; it defines 0: write class Mine\(pl\.Problem\)$",
    ),
    "two": (
        "@lru_cache\n",
        TWO,
        r"line 1: it must define .* one Problem; it defines 2: Decay in line 7, More in line 19$",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_without_a_problem_gets_one_sentence_with_its_line(file, name):
    old, new, sentence = BROKEN[name]
    assert DECAY.count(old) == 1
    file.write_text(DECAY.replace(old, new))
    held = set(sys.modules)
    with pytest.raises(ProblemError, match=rf"decay\.py, {sentence}") as caught:
        problem_in_file(file)
    assert "\n" not in str(caught.value)
    assert not [
        name for name in set(sys.modules) - held if name.startswith("decay") and "defines" not in str(caught.value)
    ]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ProblemError, match=r"there is no problem file .*none\.py"):
        problem_in_file(tmp_path / "none.py")
