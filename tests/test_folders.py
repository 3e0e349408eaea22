"""What appears whole or not at all."""

import pytest

from pinn_lora.folders import clear_partial, in_use, plain_path, whole, write_atomically


def test_a_folder_appears_with_everything_in_it(tmp_path):
    with whole(tmp_path / "runs" / "one") as place:
        (place / "a.txt").write_text("a")
        assert not (tmp_path / "runs" / "one").exists()
    assert (tmp_path / "runs" / "one" / "a.txt").read_text() == "a"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


def test_of_what_fails_nothing_stays(tmp_path):
    with pytest.raises(KeyError), whole(tmp_path / "runs" / "one") as place:
        (place / "a.txt").write_text("a")
        raise KeyError
    assert not list((tmp_path / "runs").iterdir())


def test_what_a_killed_run_left_is_cleared_and_nothing_else(tmp_path):
    (tmp_path / ".partial-x").mkdir()
    (tmp_path / "kept").mkdir()
    clear_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_is_replaced(tmp_path):
    for text in ("one", "two"):
        write_atomically(tmp_path / "a.json", text)
        assert [path.read_text() for path in tmp_path.iterdir()] == [text]


def test_a_full_folder_is_seen_through_one_that_is_not_there(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("a")
    hidden = tmp_path / "gone" / ".." / "full"
    assert not in_use(hidden) and in_use(plain_path(hidden))
    assert not in_use(tmp_path / "gone") and in_use(tmp_path / "full" / "a.txt")
