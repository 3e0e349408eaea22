"""Calls that train, made at once: what their runs ask of equal objectives is evaluated for all in one batched program.

Every call has a thread of its own, of which one computes at a time. One that asks for an evaluation waits until all do;
then the largest set of equal questions is answered at once, and those who asked go on. So every method is batched as it
stands, and runs that differ, or end early, are in nobody's way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from pinn_lora.batches import Batch, batch_key
from pinn_lora.clock import by_cpu_time, seconds
from pinn_lora.compiling import compile_seconds
from pinn_lora.objective import Objective

T = TypeVar("T")

FEW = 300  # points of a run, those of the conditions with them, up to which runs share batches on a CPU


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of calls of `pretrain` and `finetune`, made at once: together([partial(finetune, base, problem, seed=s)
    for s in range(16)]).

    Runs of equal shape (network, what is trained, numbers of points, a problem of the same class) go through one batched
    program, with the numbers that each would give alone, up to rounding: on a GPU always, on a CPU where a run has at most
    300 points, since there more fill the machine by themselves. That is the loss, residuals, gradients, J^T u, Jacobians and
    Gauss-Newton matrices. Not batched, each run by itself: linear systems, lifts (velocities and masses), metrics, the
    products of conjugate gradients and sketches; and all of a run whose network has factorised weights or is none of ours,
    or whose problem cannot be told from another. The seconds in a run's history are its own and its share of what was
    evaluated for several. An error of a call is raised when the others have ended. Memory is foreseen for each run by
    itself: on a GPU, take as many at once as fit. An interruption ends every run at its next evaluation.
    """
    calls = list(calls)
    gang, threads = Gang(len(calls)), torch.get_num_threads()
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []
    ended = threading.Semaphore(0)

    def make(i: int) -> None:
        try:
            with gang.turn:
                torch.set_num_threads(threads)  # of this thread
                run, gang.since = Run(gang), _instant()
                _current.set(run)
                try:
                    gang.go_on()
                    results[i] = calls[i]()
                except BaseException as error:
                    errors.append(error)
                gang.leave(run)
        finally:
            ended.release()

    workers = [threading.Thread(target=make, args=(i,), daemon=True) for i in range(len(calls))]
    try:
        with gang.turn:  # nobody computes before all are there
            for worker in workers:
                worker.start()
        for _ in workers:  # a join that is interrupted would take its thread for ended (bpo-45274)
            ended.acquire()
    finally:  # a thread that outlives an interruption would compute on, and abort the interpreter at its end
        gang.stop()
        for worker in workers:
            if worker.ident is not None:  # it was started
                worker.join()
    if errors:
        raise errors[0]
    return results


def objective_for(*arguments: Any, **options: Any) -> Objective:
    """An `Objective`, which in a call of `together` asks with those of other runs."""
    run = _current.get()
    return Objective(*arguments, **options) if run is None else SharedObjective(*arguments, **options, run=run)


def spent(device: torch.device) -> float:
    """Seconds by the clock of `clock.seconds`, without those of compiling; in a call of `together` those of this run.
    Differences count."""
    run = _current.get()
    return seconds(device) - compile_seconds() if run is None else run.seconds(device)


class Run:
    """One of the runs that advance together, with the seconds that it has taken, by both clocks."""

    def __init__(self, gang: Gang) -> None:
        self.gang, self.cpu, self.wall = gang, 0.0, 0.0

    def charge(self, since: tuple[float, float], until: tuple[float, float], share: float = 1.0) -> None:
        self.cpu += share * (until[0] - since[0])
        self.wall += share * (until[1] - since[1])

    def seconds(self, device: torch.device) -> float:
        now = _instant()
        self.charge(self.gang.since, now)
        self.gang.since = now
        return self.cpu if by_cpu_time(device) else self.wall


_current: ContextVar[Run | None] = ContextVar("run", default=None)


def _instant() -> tuple[float, float]:
    """CPU and wall clock, without what was spent on compiling."""
    return time.process_time() - compile_seconds(), time.perf_counter() - compile_seconds()


@dataclass(eq=False)
class Question:
    """What a run waits for: the answer to its argument, which `answer_all` gives for all of a set of equal questions."""

    run: Run
    key: Hashable
    answer_all: Callable[[list], list]
    argument: Any
    answered: threading.Condition
    done: bool = False
    answer: Any = None
    error: BaseException | None = None


class Gang:
    """The runs that advance together. Whoever computes holds `turn`, and has since `since`."""

    def __init__(self, size: int) -> None:
        self.turn, self.stopped, self.since = threading.Lock(), False, _instant()
        self._computing = size
        self._waiting: list[Question] = []
        self._kinds: dict[Hashable, int] = {}

    def known(self, key: Hashable | None) -> int | None:
        """A number in place of a key that takes long to compare."""
        return None if key is None else self._kinds.setdefault(key, len(self._kinds))

    def go_on(self) -> None:
        """KeyboardInterrupt where the runs are to end."""
        if self.stopped:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Ends every run: one that waits at once, one that computes at its next evaluation."""
        self.stopped = True
        with self.turn:
            for question in self._waiting:
                question.answered.notify()

    def ask(self, run: Run, key: Hashable, answer_all: Callable[[list], list], argument: Any) -> Any:
        """The entry for `argument` of answer_all(arguments of all questions with an equal key)."""
        question = Question(run, key, answer_all, argument, threading.Condition(self.turn))
        self._waiting.append(question)
        self.leave(run)
        question.answered.wait_for(lambda: question.done or self.stopped)
        self.since = _instant()
        self.go_on()
        if question.error is not None:
            raise question.error
        return question.answer

    def leave(self, run: Run) -> None:
        """For a run that waits, or has ended: who is last answers the largest set of equal questions."""
        run.charge(self.since, _instant())
        self._computing -= 1
        if self.stopped or self._computing or not self._waiting:
            return
        sets: dict[Hashable, list[Question]] = {}
        for question in self._waiting:
            sets.setdefault(question.key, []).append(question)
        chosen = max(sets.values(), key=len)
        start = _instant()
        try:
            answers = chosen[0].answer_all([question.argument for question in chosen])
            for question, answer in zip(chosen, answers, strict=True):
                question.answer = answer
        except Exception as error:
            for question in chosen:
                question.error = error
        end = _instant()
        self._waiting = [question for question in self._waiting if question not in chosen]
        self._computing += len(chosen)
        for question in chosen:
            question.run.charge(start, end, 1.0 / len(chosen))
            question.done = True
            question.answered.notify()


@dataclass(frozen=True)
class SharedObjective(Objective):
    """An objective whose evaluations are made for all runs that ask for the same of equal ones."""

    run: Run = field(kw_only=True, repr=False)
    _key: int | None = field(init=False, repr=False)
    _seat: list = field(init=False, repr=False, default_factory=list)  # the batch it sits in, and where

    def __post_init__(self) -> None:
        super().__post_init__()
        device = next(iter(self.network.state_dict().values())).device
        shared = device.type != "cpu" or sum(len(sets[0]) for sets in self.points.values()) <= FEW
        object.__setattr__(self, "_key", self.run.gang.known(batch_key(self)) if shared else None)

    def _ask(self, kind: str, *arguments: Tensor) -> tuple[Tensor, ...] | None:
        """What `Batch` calls `kind`, of this objective; None where it is made alone. KeyboardInterrupt where the runs are to
        end."""
        self.run.gang.go_on()
        if self._key is None:
            return None
        return self.run.gang.ask(self.run, (kind, self._key), lambda all: _evaluate(kind, all), (self, *arguments))

    def _counted(self, work: str, kind: str, *arguments: Tensor) -> Any:
        """The same, counted as this kind of work, or what `Objective` gives."""
        found = self._ask(kind, *arguments)
        if found is None:
            return getattr(super(), kind)(*arguments)
        setattr(self.work, work, getattr(self.work, work) + 1)
        return found[0] if len(found) == 1 else found

    def value(self, theta: Tensor) -> float:
        return float(self._counted("residuals", "value", theta))

    def residuals(self, theta: Tensor) -> Tensor:
        return self._counted("residuals", "residuals", theta)

    def gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        f, g = self._counted("gradients", "gradient", theta)
        return float(f), g

    def pullback(self, theta: Tensor, u: Tensor) -> Tensor:
        return self._counted("gradients", "pullback", theta, u)

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        return self._counted("jacobians", "jacobian", theta)

    def normal(self, theta: Tensor, kept: list[tuple[Tensor, float]] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        found = self._ask("normal" if kept is None else "normal_and_jacobian", theta)
        if found is None:
            return super().normal(theta, kept)
        self.work.jacobians += 1
        R, g, H, *J = found
        if kept is not None:
            kept += [(part, 1.0) for part in J]
        return R, g, H


def _evaluate(kind: str, asked: list[tuple]) -> list[tuple[Tensor, ...] | None]:
    """The answers of a batch in which all who ask have a seat; what the others there would get is thrown away."""
    if len(asked) == 1:
        return [None]
    objectives = [question[0] for question in asked]
    batch = _batch_of(objectives)
    places = [objective._seat[1] for objective in objectives]
    row = [0] * batch.count  # whose arguments a seat is given: its own, or where it does not ask, the first one's
    for i, place in enumerate(places):
        row[place] = i
    columns = [torch.stack(column)[row] for column in zip(*(question[1:] for question in asked), strict=True)]
    found = getattr(batch, kind)(*columns)
    return [tuple(part[place] for part in found) for place in places]


def _batch_of(objectives: list[SharedObjective]) -> Batch:
    """The batch they all sit in, made anew where there is none or most of its seats are empty."""
    seat = objectives[0]._seat
    if seat and all(o._seat and o._seat[0] is seat[0] for o in objectives) and 2 * len(objectives) >= seat[0].count:
        return seat[0]
    batch = Batch(objectives)
    for i, objective in enumerate(objectives):
        objective._seat[:] = batch, i
    return batch
