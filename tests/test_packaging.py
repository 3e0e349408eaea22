"""The wheel, the source distribution and the checkout hold the same package, under the same names."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import pinn_lora
from pinn_lora.configs import configs_folder

CHECKOUT = Path(__file__).resolve().parents[1]
PROBLEMS = sorted(path.name for path in (CHECKOUT / "problems").glob("*.py"))
CONFIGS = sorted(path.name for path in (CHECKOUT / "configs").glob("*.toml"))


def python(*arguments: str, cwd: Path) -> str:
    """What a fresh interpreter prints: isolated from this folder and from the environment's variables."""
    done = subprocess.run([sys.executable, "-I", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a "wheel" or an "sdist" of `source` into `target`, with the backend itself: no network, no environment."""
    code = f"import sys; from hatchling.build import build_{kind} as build; print(build(sys.argv[1]))"
    return target / python("-c", code, str(target), cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    target = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", CHECKOUT, target)) as archive:
        archive.extractall(target, filter="data")
    return next(path for path in target.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the checkout."""
    return build("wheel", CHECKOUT, tmp_path_factory.mktemp("wheel"))


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_there_are_problems_and_configs_to_look_for():
    assert "burgers.py" in PROBLEMS
    assert {"burgers.toml", "demo.toml", "smoke.toml"} <= set(CONFIGS)


def test_wheel_holds_every_source_problem_and_config(wheel):
    expected = {f"pinn_lora/problems/{name}" for name in PROBLEMS}
    expected |= {f"pinn_lora/configs/{name}" for name in CONFIGS}
    expected |= {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "pinn_lora").rglob("*.py")}
    expected |= {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "pinn_lora" / "templates").iterdir()}
    expected |= {"pinn_lora/problems/__init__.py", "pinn_lora/configs/__init__.py", "pinn_lora/templates/report.html"}
    assert expected - files(wheel) == set()


def test_the_wheel_of_the_sdist_is_the_same(wheel, sdist, tmp_path):
    """Built as an installer does it: so the tests of one wheel speak for both."""
    again = build("wheel", sdist, tmp_path)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert files(wheel) == files(again)
        assert [name for name in files(wheel) if first.read(name) != second.read(name)] == []


def test_wheel_brings_one_name_and_no_litter(wheel):
    version = pinn_lora.__version__
    assert {name.split("/")[0] for name in files(wheel)} == {"pinn_lora", f"pinn_lora-{version}.dist-info"}
    assert [name for name in files(wheel) if "__pycache__" in name or name.endswith(".pyc")] == []


def test_wheel_has_the_command_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        texts = {name.split("/", 1)[1]: archive.read(name).decode() for name in files(wheel) if ".dist-info/" in name}
    assert "pinn-lora = pinn_lora.cli:main" in texts["entry_points.txt"]
    assert texts["licenses/LICENSE"] == (CHECKOUT / "LICENSE").read_text()


def test_sdist_holds_what_a_developer_needs(sdist):
    names = ["README.md", "constraints.txt", "Makefile", ".ci/run", "problems/burgers.py", "configs/smoke.toml"]
    assert [name for name in [*names, "tests/test_packaging.py"] if not (sdist / name).is_file()] == []


def test_wheel_imports_where_no_checkout_is_seen(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import sys
site, checkout = sys.argv[1:]
sys.path[:] = [site] + [path for path in sys.path if path != checkout]  # an editable install adds the checkout
from pinn_lora import problems
from pinn_lora.configs import configs_folder
from pinn_lora.problems import burgers
print(burgers.__file__, configs_folder(), *problems.__path__, sep="\\n")
elsewhere = [m.__file__ for name, m in sys.modules.items() if name.startswith("pinn_lora") and site not in m.__file__]
assert not elsewhere, elsewhere
"""
    printed = python("-c", code, str(tmp_path / "site"), str(CHECKOUT), cwd=tmp_path).splitlines()
    package = tmp_path / "site" / "pinn_lora"
    assert [Path(line) for line in printed[-3:]] == [
        package / "problems" / "burgers.py",
        package / "configs",
        package / "problems",
    ]


def test_checkout_imports_its_own_problems_and_configs():
    """In an editable install, and wherever else the package runs from a checkout."""
    from pinn_lora.problems import burgers

    assert Path(pinn_lora.__file__).parent == CHECKOUT / "pinn_lora"
    assert Path(burgers.__file__) == CHECKOUT / "problems" / "burgers.py"
    assert configs_folder() == CHECKOUT / "configs"


def test_checkout_runs_without_an_installation(tmp_path):
    """A bare clone: the same names, found from its folder alone."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import pinn_lora.problems.burgers as burgers
print(burgers.__file__)
"""
    printed = python("-c", code, str(CHECKOUT), cwd=tmp_path).splitlines()
    assert Path(printed[-1]) == CHECKOUT / "problems" / "burgers.py"
