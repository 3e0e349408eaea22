"""Calls made at once: the numbers of each alone, answers that are shared, and runs that differ, end early or fail."""

import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_problems import BOX, HiddenField, doubtful
from torch import nn

import pinn_lora as pl
from pinn_lora import compiling
from pinn_lora import gang as module
from pinn_lora.gang import Gang, Run, together

OPTIONS = {"rank": 2, "points": 100, "max_steps": 6, "resample_every": 3, "weights": {"residual": 2.0}}


@pytest.fixture
def evaluated(monkeypatch) -> list[tuple[str, int]]:
    """What was evaluated for how many."""
    found, evaluate = [], module._evaluate

    def counted(kind, asked):
        found.append((kind, len(asked)))
        return evaluate(kind, asked)

    monkeypatch.setattr(module, "_evaluate", counted)
    return found


def same_runs(found: pl.Solution, expected: pl.Solution) -> None:
    """The same steps, to what rounding in another order becomes in a few of them."""
    assert found.settings["work"] == expected.settings["work"] and found.status == expected.status
    assert len(found.history) == len(expected.history)
    for a, b in zip(found.history, expected.history, strict=True):
        assert (a.step, a.accepted, a.points) == (b.step, b.accepted, b.points)
        assert a.held_out_loss == pytest.approx(b.held_out_loss, rel=1e-6)


@pytest.mark.parametrize("method", ["odelora-implicit", "lora-lm", "odelora-rk4", "lora-adam", "lora-lbfgs", "full-lm"])
def test_every_call_gives_what_it_gives_alone(small_base, target, method, evaluated, monkeypatch):
    monkeypatch.setattr(module, "FEW", 10_000)  # the held-out points, too
    options = {"method": method, **OPTIONS, **({"rank": None} if method == "full-lm" else {})}
    problems = [target, Burgers(nu=0.04), target]
    calls = [partial(pl.finetune, small_base, p, seed=s, **options) for s, p in enumerate(problems)]
    before = torch.get_num_threads(), threading.active_count()
    found = together(calls)
    assert (torch.get_num_threads(), threading.active_count()) == before
    shared = sum(count for _, count in evaluated if count > 1)
    assert shared > 0.8 * sum(count for _, count in evaluated)
    for call, solution in zip(calls, found, strict=True):
        same_runs(solution, call())


def test_calls_made_at_once_again_compile_nothing_and_give_the_numbers_of_plain_ones(
    small_base, target, monkeypatch, evaluated
):
    found = []

    def compile(function, tensors, mode="real"):
        found.append(function)
        return function  # takes no time

    monkeypatch.setattr(compiling, "_kernels", {})
    monkeypatch.setattr(compiling, "_compile", compile)
    options = {**OPTIONS, "points": 256, "max_steps": 4, "resample_every": None, "method": "odelora-rk4"}
    problem = Burgers(nu=target.nu, form="ansatz")

    def calls(seeds: range, **more) -> list[pl.Solution]:
        return together([partial(pl.finetune, small_base, problem, seed=s, **options, **more) for s in seeds])

    first = calls(range(3), compile=True)
    assert any(count == 3 for _, count in evaluated) and found
    found.clear()
    calls(range(3, 6), compile=True)
    assert found == []
    for a, b in zip(first, calls(range(3)), strict=True):
        same_runs(a, b)


def test_runs_that_differ_are_in_nobodys_way(small_base, target, evaluated):
    """Another rank, another method, one that ends early, a pretraining, and something that does not train."""
    options = {key: value for key, value in OPTIONS.items() if key != "rank"}
    calls = [
        partial(pl.finetune, small_base, target, rank=2, **options),
        partial(pl.finetune, small_base, target, rank=2, seed=1, **{**options, "max_steps": 2}),
        partial(pl.finetune, small_base, target, rank=3, **options),
        partial(pl.finetune, small_base, target, rank=2, method="lora-adam", **options),
        partial(pl.pretrain, target, width=5, depth=2, points=80, max_steps=3),
        lambda: "nothing",
    ]
    found = together(calls)
    assert any(count > 1 for _, count in evaluated)
    assert found[-1] == "nothing"
    for call, solution in zip(calls[:-1], found, strict=False):
        same_runs(solution, call())


@pytest.mark.parametrize("kind", range(len(doubtful(1.0))), ids=[type(p).__name__ for p in doubtful(1.0)])
def test_problems_of_which_equality_says_nothing_train_as_alone(kind, monkeypatch):
    """Runs of c = 1, 3 and 1 again. Who cannot be told from another is left alone."""
    monkeypatch.setattr(module, "FEW", 10_000)
    options = {"width": 5, "depth": 2, "points": 80, "max_steps": 2}
    calls = [partial(pl.pretrain, doubtful(c)[kind], **options) for c in (1.0, 3.0, 1.0)]
    for call, solution in zip(calls, together(calls), strict=True):
        same_runs(solution, call())


def module_of(*layers: int) -> nn.Module:
    """A network that is not one of ours, of these hidden widths."""
    torch.manual_seed(sum(layers))
    widths, parts = [2, *layers, 1], []
    for n, m in pairwise(widths):
        parts += [nn.Linear(n, m), nn.Tanh()]
    return nn.Sequential(*parts[:-1]).double()


def test_what_cannot_be_batched_is_left_alone(evaluated):
    """Two other modules, two networks with factorised weights, and two problems that cannot be told apart: none of them has
    anything to do with another."""
    problem, options = Burgers(nu=0.1, form="soft"), {"points": 30, "max_steps": 2, "method": "full-adam"}
    calls = [partial(pl.pretrain, problem, network=module_of(*layers), **options) for layers in ((4,), (3, 3))]
    for width in (4, 5):
        network = {"name": "mlp", "factorised": True}
        calls.append(partial(pl.pretrain, problem, network=network, width=width, depth=2, **options))
    for speed in (1.0, 3.0):
        calls.append(partial(pl.pretrain, HiddenField(speed), width=4, depth=2, **options))
    found = together(calls)
    assert evaluated == []
    for call, solution in zip(calls, found, strict=True):
        same_runs(solution, call())


def test_many_points_are_evaluated_alone_on_a_cpu(small_base, target, evaluated):
    calls = [partial(pl.finetune, small_base, target, seed=s, **{**OPTIONS, "points": 400}) for s in range(2)]
    together(calls)
    assert evaluated == []


def test_an_error_is_raised_when_the_others_have_ended(small_base, target):
    done = []

    def good():
        done.append(pl.finetune(small_base, target, **OPTIONS))

    with pytest.raises(ValueError, match="rank"):
        together([good, partial(pl.finetune, small_base, target, **{**OPTIONS, "rank": 999}), good])
    assert len(done) == 2


def test_an_evaluation_that_fails_fails_for_all_who_asked(small_base, target, monkeypatch):
    def broken(kind, asked):
        raise MemoryError("no room")

    monkeypatch.setattr(module, "_evaluate", broken)
    before = threading.active_count()
    with pytest.raises(MemoryError, match="no room"):
        together([partial(pl.finetune, small_base, target, seed=s, **OPTIONS) for s in range(3)])
    assert threading.active_count() == before


def test_no_calls_give_nothing():
    assert together([]) == []


def test_the_largest_set_is_answered_first_and_the_others_catch_up():
    """Two ask for a, then b; one asks for b at once, waits, and is answered with them."""
    answered = []

    def answer(key, arguments):
        answered.append((key, sorted(arguments)))
        return [2 * x for x in arguments]

    def ask(x, keys):
        run = module._current.get()
        return [run.gang.ask(run, key, partial(answer, key), x) for key in keys]

    assert together([partial(ask, 1, "ab"), partial(ask, 2, "ab"), partial(ask, 3, "b")]) == [[2, 2], [4, 4], [6]]
    assert answered == [("a", [1, 2]), ("b", [1, 2, 3])]


def test_seconds_are_a_runs_own_and_its_share_of_what_is_shared():
    def busy(duration):
        end = time.process_time() + duration
        while time.process_time() < end:
            pass

    def work(own):
        run = module._current.get()
        busy(own)
        run.gang.ask(run, "shared", lambda asked: busy(0.2) or asked, None)
        return module.spent(torch.device("cpu"))

    first, second = together([partial(work, 0.1), partial(work, 0.3)])
    assert first == pytest.approx(0.1 + 0.1, abs=0.05) and second == pytest.approx(0.3 + 0.1, abs=0.05)


def test_an_interrupted_wait_ends_every_run():
    gang = Gang(1)
    with gang.turn:
        run = Run(gang)
        gang.stopped = True
        with pytest.raises(KeyboardInterrupt):
            gang.ask(run, "a", list, 1)


@dataclass(frozen=True)
class Interrupting(pl.Problem):
    """Interrupts the main thread when its residual is called for the hundredth time."""

    domain = BOX
    calls: ClassVar[list[int]] = []

    def residual(self, p, u):
        self.calls.append(1)
        if len(self.calls) == 100:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        return u.t - u.xx


@pytest.fixture
def interrupted(monkeypatch):
    """A signal is an interruption."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(Interrupting, "calls", [])
    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the system has no signals for threads")
@pytest.mark.parametrize("points", [60, 400], ids=["evaluated together", "each evaluated alone"])
def test_an_interruption_ends_every_run_and_leaves_no_thread(points, interrupted):
    """Of 1,000 steps each, which take some hundred times as long as those before the interruption."""
    ended = []

    def call(seed):
        options = {"width": 5, "depth": 2, "points": points, "max_steps": 1000, "resample_every": None, "seed": seed}
        pl.pretrain(Interrupting(), method="full-adam", **options)
        ended.append(seed)

    pl.pretrain(Burgers(), width=3, depth=1, points=20, max_steps=1)  # progress bars have a thread of their own
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        together([partial(call, seed) for seed in range(3)])
    assert threading.active_count() == before and ended == []


def test_a_run_that_waits_for_others_ends_with_an_interruption():
    gang, ended, begun = Gang(2), [], threading.Event()

    def wait():
        with gang.turn:
            begun.set()
            try:
                gang.ask(Run(gang), "a", list, 1)
            except KeyboardInterrupt:
                ended.append(True)

    worker = threading.Thread(target=wait, daemon=True)
    worker.start()
    begun.wait()
    gang.stop()
    worker.join(timeout=20)
    assert ended == [True]
