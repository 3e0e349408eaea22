"""The problems that come with the package, one PDE per file; in a checkout they lie in `problems/` at its top."""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout / "problems"))
