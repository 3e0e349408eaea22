"""What appears whole or not at all, what is read of it, and who may write."""

import json
import subprocess
import sys

import pytest

from pinn_lora.folders import RUN_KEYS, alone, clear_partial, in_use, plain_path, read_run, whole, write_atomically

RUN = {**dict.fromkeys(RUN_KEYS), "id": "01-a--sgd--seed0", "case": "01-a"}


def test_a_folder_appears_with_everything_in_it(tmp_path):
    with whole(tmp_path / "runs" / "one") as place:
        (place / "a.txt").write_text("a")
        assert not (tmp_path / "runs" / "one").exists()
    assert (tmp_path / "runs" / "one" / "a.txt").read_text() == "a"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


def test_a_folder_is_as_open_as_the_users_others(tmp_path):
    (tmp_path / "plain").mkdir()
    with whole(tmp_path / "runs"):
        pass
    assert (tmp_path / "runs").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_of_what_fails_nothing_stays(tmp_path):
    with pytest.raises(KeyError), whole(tmp_path / "runs" / "one") as place:
        (place / "a.txt").write_text("a")
        raise KeyError
    assert not list((tmp_path / "runs").iterdir())


def test_of_what_cannot_be_put_in_its_place_nothing_stays(tmp_path):
    with pytest.raises(OSError), whole(tmp_path / ("x" * 300)) as place:
        (place / "a.txt").write_text("a")
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    ("text", "there"),
    [
        (json.dumps(RUN), True),
        (json.dumps({**RUN, "id": "01-a--sgd--seed1"}), False),
        (json.dumps({**RUN, "case": "02-b"}), False),
        *[(json.dumps({key: value for key, value in RUN.items() if key != left}), False) for left in sorted(RUN_KEYS)],
        (json.dumps(RUN)[:-1], False),
        ("{}", False),
        ("[]", False),
        (None, False),
    ],
)
def test_a_run_is_read_where_it_is_whole_and_its_own(tmp_path, text, there):
    place = tmp_path / RUN["id"]
    place.mkdir()
    if text is not None:
        (place / "run.json").write_text(text)
    assert read_run(place) == (RUN if there else None)


def test_one_process_at_a_time_is_let_into_a_folder(tmp_path):
    """Also after one that was killed; and nothing is left in it."""
    folder = tmp_path / "new" / "results"
    code = "import sys, time; from pathlib import Path; from pinn_lora.folders import alone; door = alone(Path(sys.argv[1]))"
    code += "; door.__enter__(); print('in', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        try:
            with (
                pytest.raises(OSError, match=f"^another process is at work in {folder}; nothing was changed: wait"),
                alone(folder),
            ):
                pass
        finally:
            other.kill()
    with alone(folder):
        (folder / "a.txt").touch()
    with alone(folder):
        assert [path.name for path in folder.iterdir()] == ["a.txt"]
