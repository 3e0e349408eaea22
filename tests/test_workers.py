"""Calls in other processes: who waits for whom, the same results from any number of them, and what is left behind."""

import os

import pytest
import torch
from tqdm import tqdm
from tqdm.std import TqdmDefaultWriteLock

from pinn_lora.workers import each, in_tree, torch_threads

TREE = [(2, None), (0, 2), (3, 0), (1, None), (4, 1)]


def path_of(i, before):
    return [*before, i], os.getpid()


def walk(jobs):
    """The paths of TREE by `path_of`, and the processes that they were found in."""
    parents, results = dict(TREE), {}

    def arguments(i):
        return i, [] if parents[i] is None else results[parents[i]][0]

    for i, result in in_tree(path_of, TREE, arguments, jobs=jobs):
        results[i] = result
    return {i: path for i, (path, _) in results.items()}, {process for _, process in results.values()}


PATHS = {2: [2], 0: [2, 0], 3: [2, 0, 3], 1: [1], 4: [1, 4]}


def note(folder, name, *, progress):
    (folder / name).write_text(str(progress))
    return name


def notes(folder, jobs):
    """What `each` leaves in a new folder of its own."""
    folder.mkdir()
    each(note, [(folder, "a"), (folder, "b")], jobs=jobs)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_one_job_is_this_process_and_every_call_follows_its_parents(tmp_path):
    assert walk(1) == (PATHS, {os.getpid()})
    assert notes(tmp_path / "one", 1) == {"a": "False", "b": "False"}
    each(note, [], jobs=1)


def test_more_jobs_are_other_processes_and_a_tree_and_a_list_of_calls_may_follow_each_other(tmp_path):
    assert notes(tmp_path / "first", 2) == {"a": "False", "b": "False"}
    paths, processes = walk(2)
    assert paths == PATHS
    assert os.getpid() not in processes
    assert notes(tmp_path / "second", 2) == {"a": "False", "b": "False"}


def makes_a_bar(path, *, progress):
    with tqdm(disable=True):
        path.write_text(str(hasattr(TqdmDefaultWriteLock, "mp_lock")))
    return ""


def test_a_workers_bar_makes_no_semaphore_that_an_interrupted_worker_would_leave_behind(tmp_path):
    each(makes_a_bar, [(tmp_path / "a",), (tmp_path / "b",)], jobs=2)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["False", "False"]


def fails():
    raise ValueError("as it must")


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_through(jobs):
    with pytest.raises(ValueError, match="as it must"):
        list(in_tree(fails, [(0, None), (1, None)], lambda i: (), jobs=jobs))


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
