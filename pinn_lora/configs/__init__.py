"""The studies that come with the package, one TOML file each; in a checkout they lie in `configs/` at its top."""

from pathlib import Path


def configs_folder() -> Path:
    """The folder that holds the TOML files: of the checkout, or of the installed package."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout / "configs" if (checkout / "pyproject.toml").is_file() else Path(__file__).resolve().parent
