"""The command line: `pinn-lora run`, `family`, `report`, `archive`, `new-problem`, `check` and `list`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, TypeVar

import typer

import pinn_lora.problems
from pinn_lora import initializers, integrators, lifts, metrics, networks, optimizers, solvers
from pinn_lora.about import __version__
from pinn_lora.archive import archive
from pinn_lora.catalog import describe
from pinn_lora.checks.findings import Verdict, report_lines
from pinn_lora.checks.problem import TOLERANCE, check_problem
from pinn_lora.config import ConfigError, check_config, load_config, load_problem, setting
from pinn_lora.families.config import check_family, load_family
from pinn_lora.families.report import family_report, is_family
from pinn_lora.families.study import run_family
from pinn_lora.initializers import Initializer
from pinn_lora.integrators import Integrator
from pinn_lora.lifts import Lift
from pinn_lora.metrics import Metric
from pinn_lora.networks import Network
from pinn_lora.new_problem import new_problem
from pinn_lora.optimizers import Optimizer
from pinn_lora.places import ProblemError
from pinn_lora.presets import PRESETS
from pinn_lora.problem import Problem
from pinn_lora.ranges import POSITIVE
from pinn_lora.report import ReportError
from pinn_lora.report import report as write_report
from pinn_lora.solvers import Solver
from pinn_lora.study import run_study
from pinn_lora.table import methods_markdown

Number = TypeVar("Number", int, float)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pinn-lora {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """Train physics-informed networks and adapt them to families of PDEs through LoRA factors."""


EXAMPLES = "Start with: pinn-lora run configs/demo.toml"


@app.command(epilog=EXAMPLES)
def run(
    config: Annotated[Path, typer.Argument(help="The study's TOML file, for example configs/demo.toml.")],
    out: Annotated[
        Path | None, typer.Option(help="Results folder; results/NAME of the config where not given.")
    ] = None,
    seed: Annotated[
        list[str] | None, typer.Option(help="Run with this seed instead; may be given several times.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 (the default) or float32.")] = None,
    jobs: Annotated[str | None, typer.Option(help="How many runs at once.")] = None,
    case: Annotated[
        list[str] | None, typer.Option(help="Run this case alone, by its number from 1; may be given several times.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Run a study and write its report; run it again to continue one that was interrupted."""
    study = load_config(config)
    cases = [_read(int, text, of="--case") for text in case or []]
    seeds = [_read(int, text, of="--seed") for text in seed or []]
    given = {
        "seeds": seeds or None,
        "device": device,
        "dtype": dtype,
        "jobs": jobs and _read(int, jobs, of="--jobs"),
    }
    changed = {key: value for key, value in given.items() if value is not None}
    if changed:
        study = check_config({**study.model_dump(), **changed}, where="command line")
    folder = out or Path("results") / study.name
    options = [f"--{'seed' if key == 'seeds' else key} {v}" for key, value in changed.items() for v in _many(value)]
    command = shlex.join(["pinn-lora", "run", str(config)]) + "".join(f" {option}" for option in options)
    try:
        source, origin = config.read_text(encoding="utf-8"), config.parent
        run_study(study, folder, command=command, source=source, origin=origin, only=cases, progress=not quiet)
    except KeyboardInterrupt:
        typer.echo("interrupted: finished runs are kept; run the same command again for the missing ones", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"report: {write_report(folder)}")


@app.command(epilog="Start with: pinn-lora family configs/burgers_family.toml")
def family(
    config: Annotated[Path, typer.Argument(help="The family's TOML file, for example configs/burgers_family.toml.")],
    out: Annotated[
        Path | None, typer.Option(help="Results folder; results/NAME of the config where not given.")
    ] = None,
    jobs: Annotated[str | None, typer.Option(help="How many members at once.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Solve a family of PDEs and write its report; run it again to continue one that was interrupted."""
    asked = load_family(config)
    command = shlex.join(["pinn-lora", "family", str(config)])
    if jobs is not None:
        given = {"jobs": _read(int, jobs, of="--jobs")}
        asked = check_family({**asked.model_dump(by_alias=True, exclude_none=True), **given}, where="command line")
        command += f" --jobs {jobs}"
    folder = out or Path("results") / asked.name
    try:
        source, origin = config.read_text(encoding="utf-8"), config.parent
        run_family(asked, folder, command=command, source=source, origin=origin, progress=not quiet)
    except KeyboardInterrupt:
        typer.echo("interrupted: finished members are kept; run the same command again for the missing ones", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"report: {family_report(folder)}")


def _read(kind: type[Number], text: str, *, of: str) -> Number:
    """The number that an option was given; typer's own sentence does not name the value."""
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{of} is {text!r}; give a {'whole ' if kind is int else ''}number") from None


def _many(value: object) -> list:
    return value if isinstance(value, list) else [value]


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A results folder, for example results/demo.")]) -> None:
    """Write report.html and its tables again from a results folder."""
    written = family_report(folder) if is_family(folder) else write_report(folder)
    typer.echo(f"report: {written}")


@app.command(name="archive")
def archive_(
    folder: Annotated[Path, typer.Argument(help="A study's results folder, for example results/demo.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Keep a study small: its report, tables and bases, and all runs' histories in one file; it can be continued from there."""
    write_report(folder)
    typer.echo(f"wrote {archive(folder, target)}")


@app.command(name="new-problem")
def new_problem_(
    name: Annotated[str, typer.Argument(help="What to call it: NAME.py and NAME.toml are written.")],
    folder: Annotated[Path, typer.Option(help="Where.")] = Path(),
) -> None:
    """Write a commented problem and a small study of it to begin with; nothing is overwritten."""
    problem, study = new_problem(name, folder)
    typer.echo(f"wrote {problem} and {study}\nnext: pinn-lora check {problem}\n      pinn-lora run {study}")


@app.command()
def check(
    problem: Annotated[str, typer.Argument(help="A .py file with your problem, or the name of one that is listed.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A coefficient, nu=0.01/pi; may be given several times.")
    ] = None,
    tolerance: Annotated[
        str, typer.Option(help="What a condition may miss, relative to its terms.")
    ] = f"{TOLERANCE:g}",
) -> None:
    """Test a problem before anything is trained on it; exit code 1 where something is wrong.

    "?" stands where the reference is too rough or too inexact to tell.
    """
    built = load_problem(problem, dict(setting(text) for text in set_ or []))
    allowed = _read(float, tolerance, of="--tolerance")
    if allowed not in POSITIVE:
        raise ConfigError(f"--tolerance is {allowed}; it must be {POSITIVE}")
    findings = check_problem(built, tolerance=allowed)
    typer.echo("\n".join([f"{problem}: {built!r}", *report_lines(findings)]))
    raise typer.Exit(any(finding.verdict is Verdict.WRONG for finding in findings))


@app.command(name="list")
def list_(
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of all methods, as docs/methods.md.")] = False,
) -> None:
    """List the problems, methods, metrics, lifts, integrators, solvers, optimizers, starts and networks."""
    if markdown:
        typer.echo(methods_markdown(), nl=False)
        return
    sections = {
        "problems": describe(pinn_lora.problems, Problem),
        "methods (presets)": {
            name: preset.description + (" (reconstructed)" if preset.reconstructed else "")
            for name, preset in PRESETS.items()
        },
        "metrics": describe(metrics, Metric),
        "lifts": describe(lifts, Lift),
        "integrators": describe(integrators, Integrator),
        "solvers (of an implicit step)": describe(solvers, Solver),
        "optimizers": describe(optimizers, Optimizer),
        "initializers (starts)": describe(initializers, Initializer),
        "networks": describe(networks, Network),
    }
    width = max(len(name) for members in sections.values() for name in members)
    for title, members in sections.items():
        typer.echo(f"{title}\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in members.items()) + "\n")


def main() -> None:
    """What the `pinn-lora` command calls: bad input is one sentence and exit code 2."""
    try:
        app()
    except (ConfigError, ProblemError, ReportError) as error:
        said = str(error)
    except OSError as error:  # a file or folder that cannot be read or written
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        return
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)
