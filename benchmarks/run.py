"""Runs benchmarks one after another and then makes their page; what `make bench` does.

    python benchmarks/run.py                      # all that take minutes
    python benchmarks/run.py derivatives steps    # these

A benchmark that fails does not stop the others: its name is said at the end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pinn_lora.catalog import choose

HERE = Path(__file__).parent
MINUTES = ("derivatives", "jacobians", "steps", "implicit", "scaling", "control", "batch", "accuracy", "points")
NAMED = ("problems", "families", "against_deepxde", "deepxde_examples", "structure", "pretraining")  # most take hours


def run(names: Sequence[str], scripts: Path = HERE) -> list[str]:
    """Runs each in a process of its own, and page.py last; the names of those that failed."""
    failed = []
    for name in (*names, "page"):
        print(f"=== {name}", flush=True)
        if subprocess.run([sys.executable, str(scripts / f"{name}.py")]).returncode:
            failed.append(name)
    return failed


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MINUTES)}, and, most for hours, {', '.join(NAMED)}")
    arguments = parser.parse_args(given)
    try:
        names = [choose(name, [*MINUTES, *NAMED], what="benchmark") for name in arguments.names] or list(MINUTES)
    except ValueError as error:
        parser.error(str(error))
    failed = run(names)
    left = [name for name in NAMED if name not in names]
    if left:
        print(f"not run unless named: {', '.join(left)} (python benchmarks/run.py {left[0]})")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
