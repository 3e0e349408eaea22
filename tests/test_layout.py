"""The rules of the house that a reader relies on: imports go down only, report never trains, files stay short.

Everything here is read from the source text; only the last test imports anything.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

# Low to high: a module may import only from lower levels, and a file of a folder also from the folder's __init__.
LEVELS: list[set[str]] = [
    {
        "about",
        "catalog",
        "cells",
        "checks",
        "checks.findings",
        "clock",
        "configs",
        "dde",
        "dde.load",
        "devices",
        "domain",
        "factorised",
        "families",
        "families.figures",
        "jets",
        "least_squares",
        "lower",
        "memory",
        "places",
        "plots",
        "ranges",
        "references",
        "scalars",
    },
    {
        "activations",
        "ball",
        "compiling",
        "dde.checks",
        "dde.geometry",
        "declaration",
        "effects",
        "families.rows",
        "fields",
        "figures",
        "initializers",
        "marks",
        "rslora",
    },
    {"families.equal_error", "families.rank_report", "program"},
    {"families.rank_figure", "families.shares"},
    {"checks.differences", "folders", "lora", "networks", "problem", "workers"},
    {
        "adapters",
        "dde.networks",
        "dde.taylor",
        "identity",
        "families.neighbours",
        "new_problem",
        "passes",
        "problem_file",
        "problems",
    },
    {"layer_jacobians", "products", "terms"},
    {"engines"},
    {"checks.misfit", "checks.runs", "objective"},
    {"batches", "checks.network", "checks.reference", "lifts", "metrics", "points"},
    {"checks.problem", "gang", "solvers"},
    {"integrators"},
    {"flow", "solution", "trace_weights", "wolfe"},
    {"dde.problem", "families.record", "optimizers"},
    {"method"},
    {"presets"},
    {"config", "factor_optimizer", "loop"},
    {"families.config", "training"},
    {"dde.model", "plan"},
    {"chain", "continuing", "structure"},
    {"results"},
    {"report", "study", "table"},
    {"archive", "families.family", "families.report"},
    {"families.ranks"},
    {"families.study"},
    {"cli"},
    {"__init__", "__main__"},
]

# Within a level, and within a folder: who may import whom. Each is a decision, so each is listed.
SIDEWAYS: set[tuple[str, str]] = {("lifts", "metrics"), ("optimizers.spqn", "optimizers.lbfgs")}

LONGEST = 400  # lines


def modules() -> dict[str, Path]:
    """Every module by its name below `pinn_lora`: "lora", "lifts", "lifts.balanced", "problems.burgers"."""
    found = {}
    for root, prefix in ((CHECKOUT / "pinn_lora", ()), (CHECKOUT / "problems", ("problems",))):
        for path in sorted(root.rglob("*.py")):
            parts = prefix + path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def nodes(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes that ever run; without the bodies of functions, those that run when the module is imported."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue  # a type's name alone: nothing runs
        yield child
        if inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from nodes(child, inside_functions=inside_functions)


def imports(name: str, *, inside_functions: bool = True) -> set[str]:
    """The full names that a module imports; `from pinn_lora import lora` counts as pinn_lora.lora."""
    path, found = MODULES[name], set()
    package = ["pinn_lora", *name.split(".")] if path.name == "__init__.py" else ["pinn_lora", *name.split(".")[:-1]]
    if name == "__init__":
        package = ["pinn_lora"]
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner.removeprefix("pinn_lora.") in MODULES else source)
    return found


def own_imports(name: str) -> set[str]:
    """The modules of this package that a module imports, anywhere in it, by their names below `pinn_lora`."""
    full = {full for full in imports(name) if full.split(".")[0] == "pinn_lora"}
    return {full.removeprefix("pinn_lora.") if "." in full else "__init__" for full in full}


def level(name: str) -> int:
    """A module's own level, or that of its folder."""
    top = name.split(".")[0]
    for known in (name, top):
        for number, names in enumerate(LEVELS):
            if known in names:
                return number
    pytest.fail(
        f"pinn_lora.{top} has no level yet: add {top!r} to LEVELS in tests/test_layout.py, as low as its imports allow"
    )


def may_import(importer: str, imported: str) -> bool:
    if level(imported) < level(importer) or (importer, imported) in SIDEWAYS:
        return True
    return "." in importer and imported == importer.rpartition(".")[0]


def test_the_source_is_there():
    assert {"__init__", "lora", "lifts", "lifts.balanced", "problems", "problems.burgers"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name):
    here = level(name)
    wrong = sorted(imported for imported in own_imports(name) if not may_import(name, imported))
    found = ", ".join(f"{other} (level {level(other)})" for other in wrong)
    assert not wrong, (
        f"pinn_lora.{name} (level {here}) imports {found}: move what is shared to a lower module, "
        "or list the pair in SIDEWAYS in tests/test_layout.py if the levels are equal"
    )


def test_sideways_pairs_are_in_use_and_level():
    """A pair that nobody needs any more, or that would point upwards, does not stay in the list."""
    for importer, imported in sorted(SIDEWAYS):
        assert level(importer) == level(imported), (importer, imported)
        assert imported in own_imports(importer), (
            f"{importer} no longer imports {imported}: take the pair out of SIDEWAYS"
        )


def test_every_level_holds_modules_that_exist():
    tops = {name.split(".")[0] for name in MODULES} | set(MODULES)
    listed = [name for names in LEVELS for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) - tops - {"__main__"} == set(), "LEVELS names modules that are gone"


@pytest.mark.parametrize("name", ["report", "figures", "cells", "effects", "marks"])
def test_a_report_needs_no_training(name):
    """Neither directly nor through anything that it imports."""
    reached, waiting = set(), [name]
    while waiting:
        reached.add(current := waiting.pop())
        waiting += own_imports(current) - reached
    assert not {module for module in reached if module.split(".")[0] in {"training", "__init__"}}


@pytest.mark.parametrize("name", MODULES)
def test_deepxde_is_not_imported_with_a_module(name):
    """It prints, and sets torch's default device: only a function that needs it imports it."""
    assert "deepxde" not in {full.split(".")[0] for full in imports(name, inside_functions=False)}


def test_files_stay_short():
    files = [path for folder in ("pinn_lora", "problems") for path in (CHECKOUT / folder).rglob("*") if path.is_file()]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files if path.suffix != ".pyc"}
    long = {path.relative_to(CHECKOUT).as_posix(): n for path, n in lengths.items() if n > LONGEST}
    assert not long, f"longer than {LONGEST} lines, so split by what is in them: {long}"


def test_importing_everything_leaves_the_process_alone():
    """No deepxde, and torch's default device and type as they were."""
    code = """
import importlib, sys
import torch
before = torch.get_default_dtype(), torch.get_default_device(), torch.random.initial_seed()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert (torch.get_default_dtype(), torch.get_default_device(), torch.random.initial_seed()) == before
assert "deepxde" not in sys.modules
"""
    names = ["pinn_lora", *(f"pinn_lora.{name}" for name in MODULES if name not in {"__init__", "__main__"})]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=CHECKOUT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
