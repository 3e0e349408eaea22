"""Files and folders that appear with all of their content or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

PACKED_RUNS = "runs.zip"  # in place of runs/, in a study that `archive` made small
RUN_KEYS = {"id", "case", "method", "start", "step_size", "seed", "status", "held_out_loss"}  # in every run.json


def plain_path(folder: str | Path) -> Path:
    """The path without `..`: below a folder that is not there yet, "new/../old" looks empty until mkdir makes it "old"."""
    return Path(os.path.normpath(folder))


def in_use(folder: Path) -> bool:
    """Whether something stands there that must not be written over: a file, or a folder with anything in it."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping that a JSON file holds; None for one that is not there, was cut short or holds something else."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no text and no JSON are ValueErrors
        return None
    return held if isinstance(held, dict) else None


def read_run(folder: Path) -> dict[str, Any] | None:
    """What a run's folder says of it in run.json; None where there is no such file, or where it is damaged or another run's."""
    run = read_json(folder / "run.json")
    if run is None or not run.keys() >= RUN_KEYS:
        return None
    return run if run["id"] == folder.name and folder.name.startswith(f"{run['case']}-") else None


def write_atomically(path: Path, text: str) -> None:
    """Writes a file, or leaves what was there."""
    temporary = path.with_suffix(path.suffix + ".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes the folder; inside, no other process that asks is let in, and once this one has ended, however, others are. OSError
    where another is there. What locks the folder is the folder itself, so nothing is written into it."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    door = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"another process is at work in {folder}; nothing was changed: wait for its end, or choose another --out"
            ) from None
        except OSError:  # a file system without locks: as good as can be
            pass
        yield
    finally:
        os.close(door)


class whole:
    """A folder that appears with all of its content or not at all."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.work = self.target.parent / f".partial-{uuid.uuid4().hex}"
        self.work.mkdir()  # with the rights that the user's files have; a temporary folder would be theirs alone
        return self.work

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                shutil.rmtree(self.target, ignore_errors=True)
                os.replace(self.work, self.target)
        finally:
            shutil.rmtree(self.work, ignore_errors=True)  # where it was moved, there is nothing


def clear_partial(folder: Path) -> None:
    """Removes what a killed run left half-written in a folder."""
    for left in folder.glob(".partial-*"):
        shutil.rmtree(left)


def unpack(packed: Path, folder: Path) -> None:
    """Puts into `folder` the subfolders in a zip file that it lacks, each whole; nothing where there is no such file. OSError
    for a file that is damaged."""
    if not packed.is_file():
        return
    there = {path.name for path in folder.glob("*")}
    members: dict[str, list[str]] = {}
    try:
        with zipfile.ZipFile(packed) as held:
            for name in held.namelist():
                members.setdefault(Path(name).parts[0], []).append(name)
            for subfolder in members.keys() - there:
                with whole(folder / subfolder) as place:
                    for name in members[subfolder]:
                        (place / Path(name).name).write_bytes(held.read(name))
    except zipfile.BadZipFile as error:
        raise OSError(f"{packed} is damaged ({error}); put it back as it was") from error
