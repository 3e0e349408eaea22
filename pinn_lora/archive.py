"""A study kept small: what its report is made of, with all runs in one file and their fields left out.

runs.zip       <run>/run.json and history.csv, and field.npz of those that the report draws

Such a folder can be reported and continued like the one that it was made from: `folders.unpack` brings back what runs/ lacks.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from pinn_lora.figures import drawn
from pinn_lora.folders import PACKED_RUNS, in_use, plain_path, whole
from pinn_lora.report import ReportError, load

KEPT = ("study.json", "config.toml", "report.html", "*.csv", "cases/*", "bases/*/*", "figures/*")


def archive(folder: str | Path, target: str | Path) -> Path:
    """Writes the study in `folder` to the new folder `target`. ReportError for a folder without finished runs, and for a
    target that is in use."""
    folder, target = plain_path(Path(folder)), plain_path(Path(target))
    results = load(folder)
    if in_use(target):
        raise ReportError(f"'{target}' exists and is not empty; nothing was written: choose another folder.")
    pictured = {run.folder for variants in results.variants for _, run in drawn(variants)}
    with whole(target) as place:
        for path in sorted(path for pattern in KEPT for path in folder.glob(pattern)):
            (place / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / path.relative_to(folder))
        with zipfile.ZipFile(place / PACKED_RUNS, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for path in sorted((folder / "runs").glob("[!.]*/*")):
                if (path.parent / "run.json").is_file() and (path.suffix != ".npz" or path.parent in pictured):
                    packed.write(path, f"{path.parent.name}/{path.name}")
    return target
