"""Files and folders that appear with all of their content or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def plain_path(folder: str | Path) -> Path:
    """The path without `..`: below a folder that is not there yet, "new/../old" looks empty until mkdir makes it "old"."""
    return Path(os.path.normpath(folder))


def in_use(folder: Path) -> bool:
    """Whether something stands there that must not be written over: a file, or a folder with anything in it."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file, or leaves what was there."""
    temporary = path.with_suffix(path.suffix + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)


class whole:
    """A folder that appears with all of its content or not at all."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.target.parent))
        return self.work

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            shutil.rmtree(self.target, ignore_errors=True)
            os.replace(self.work, self.target)
        else:
            shutil.rmtree(self.work, ignore_errors=True)


def clear_partial(folder: Path) -> None:
    """Removes what a killed run left half-written in a folder."""
    for left in folder.glob(".partial-*"):
        shutil.rmtree(left)
