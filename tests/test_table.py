"""The table of methods is what the code says now."""

from pathlib import Path

import pytest

from pinn_lora.presets import PRESETS
from pinn_lora.table import methods_markdown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == methods_markdown(), "run: pinn-lora list --markdown > docs/methods.md"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_row_with_its_source_and_a_file_that_is_there(name):
    (row,) = [line for line in methods_markdown().splitlines() if line.startswith(f"| `{name}` |")]
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert len(cells) == 10
    assert any(character.isdigit() for character in cells[2]), "a source with its year"
    assert ("reconstructed" in cells[2]) == PRESETS[name].reconstructed
    for link in cells[9].split(", "):
        assert (PAGE.parent / link.split("](")[1].rstrip(")")).is_file()
