"""Calls in processes of their own. What is killed leaves no worker behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from joblib import Parallel, delayed
from joblib.externals.loky import ProcessPoolExecutor
from tqdm import tqdm


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """torch computes with n threads inside, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each(
    function: Callable[..., str], arguments: Sequence[tuple], *, jobs: int, what: str = "runs", progress: bool = False
) -> None:
    """Calls the function for each, in this process or in `jobs` others, with a bar of what is done and time left. It is
    also given progress=, true where it runs in this process and may draw a bar of its own, and returns a line for the bar."""
    if not arguments:
        return
    jobs = min(jobs, len(arguments))
    inner = progress and jobs == 1
    calls = (delayed(_in_worker)(os.getpid(), function, *a, progress=inner) for a in arguments)
    results: Iterator[str] = Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)  # type: ignore[assignment]
    with tqdm(total=len(arguments), desc=what, unit="run", disable=not progress, dynamic_ncols=True) as bar:
        for line in results:
            bar.set_postfix_str(line)
            bar.update()


def in_tree(
    function: Callable[..., Any],
    tree: Sequence[tuple[int, int | None]],
    arguments: Callable[[int], tuple],
    *,
    jobs: int,
) -> Iterator[tuple[int, Any]]:
    """(i, function(*arguments(i))) for every (i, parent) of a tree, as they end, independent branches at once. `arguments`
    is asked for in this process, once the parent's result has been taken. `tree` lists parents before children."""
    jobs = min(jobs, len(tree))
    if jobs <= 1:
        for i, _ in tree:
            yield i, function(*arguments(i))
        return
    children: dict[int | None, list[int]] = {}
    for i, parent in tree:
        children.setdefault(parent, []).append(i)
    running: dict[Future, int] = {}
    with ProcessPoolExecutor(max_workers=jobs) as executor:  # not the one that is kept for Parallel
        try:
            ready = children.get(None, [])
            while ready or running:
                running |= {executor.submit(_in_worker, os.getpid(), function, *arguments(i)): i for i in ready}
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                ready = []
                for future in ended:
                    i = running.pop(future)
                    yield i, future.result()
                    ready += children.get(i, [])
        finally:  # after an error, or when the reader goes away: what runs ends first, and nothing more begins
            for future in running:
                future.cancel()
            wait(running)


def _in_worker(parent: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    _begin_worker(parent)
    return function(*arguments, **options)


@cache
def _begin_worker(parent: int) -> None:
    """Ends this process, where it is a worker, when the process that started it is gone. Its bars are locked among threads
    alone: a lock among processes would be a semaphore, which a worker that is interrupted leaves behind with a warning."""
    if os.getppid() != parent:
        return
    tqdm.set_lock(threading.RLock())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
