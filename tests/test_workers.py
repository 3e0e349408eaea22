"""Calls in other processes: who waits for whom, the same results from any number of them, and what is left behind."""

import os

import pytest
import torch

from pinn_lora.workers import each, in_tree, torch_threads

TREE = [(2, None), (0, 2), (3, 0), (1, None), (4, 1)]


def path_of(i, before):
    return [*before, i]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_call_follows_its_parents(jobs):
    results = {}
    parents = dict(TREE)

    def arguments(i):
        return i, [] if parents[i] is None else results[parents[i]]

    for i, result in in_tree(path_of, TREE, arguments, jobs=jobs):
        results[i] = result
    assert results == {2: [2], 0: [2, 0], 3: [2, 0, 3], 1: [1], 4: [1, 4]}


def process_id():
    return os.getpid()


def test_one_job_is_this_process_and_more_are_others():
    tree = [(0, None), (1, None)]
    alone = dict(in_tree(process_id, tree, lambda i: (), jobs=1))
    assert set(alone.values()) == {os.getpid()}
    others = dict(in_tree(process_id, tree, lambda i: (), jobs=2))
    assert os.getpid() not in others.values()


def fails():
    raise ValueError("as it must")


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_through(jobs):
    with pytest.raises(ValueError, match="as it must"):
        list(in_tree(fails, [(0, None), (1, None)], lambda i: (), jobs=jobs))


def note(folder, name, *, progress):
    (folder / name).write_text(str(progress))
    return name


def test_each_calls_once_for_each(tmp_path):
    each(note, [(tmp_path, "a"), (tmp_path, "b")], jobs=1)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "False", "b": "False"}
    each(note, [], jobs=1)


def test_a_tree_and_a_list_of_calls_may_follow_each_other(tmp_path):
    for _ in range(2):
        assert len(list(in_tree(process_id, [(0, None), (1, None)], lambda i: (), jobs=2))) == 2
        each(note, [(tmp_path, "a"), (tmp_path, "b")], jobs=2)


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
