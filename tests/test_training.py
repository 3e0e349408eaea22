"""Training: accuracy against the true solution, reproducibility, a frozen base, statuses, and points that are added."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import training
from pinn_lora.loop import _record_steps
from pinn_lora.lora import LoRALinear
from pinn_lora.optimizers.adam import Adam
from pinn_lora.optimizers.lbfgs import LBFGS
from pinn_lora.presets import PRESETS

SHORT = {"max_steps": 4, "points": 200, "resample_every": 2}


def final(solution):
    return {name: value.clone() for name, value in solution.network.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_pretraining_reaches_the_true_solution(small_base):
    # nu = 0.1/pi has no thin layer; 40 steps end near 1e-4, so 2e-3 leaves a factor of ten
    assert small_base.relative_l2() < 2e-3
    assert small_base.history[0].relative_l2 > 0.1


@pytest.mark.parametrize("initializer", ["zero_b", "balanced"])
@pytest.mark.parametrize("method", ["odelora-implicit", "lora-lm"])
def test_implicit_finetuning_beats_zero_shot_by_far(small_base, target, method, initializer):
    tuned = pl.finetune(small_base, target, method=method, rank=4, initializer=initializer, max_steps=30, points=400)
    zero_shot = tuned.compare_to_base()
    assert zero_shot > 0.02  # otherwise there is nothing to adapt
    assert tuned.relative_l2() < zero_shot / 10


@pytest.mark.parametrize("step_size", [1e-6, 1e8])
def test_adaptive_implicit_method_forgives_the_first_step_size(small_base, target, step_size):
    tuned = pl.finetune(small_base, target, rank=4, step_size=step_size, max_steps=50, points=400)
    assert tuned.relative_l2() < tuned.compare_to_base() / 4


@pytest.mark.parametrize("method", ["lora-lbfgs", "lora-adam", "full-lbfgs", "full-lm"])
def test_baselines_beat_zero_shot(small_base, target, method):
    tuned = pl.finetune(small_base, target, method=method, rank=4, max_steps=150, points=300)
    assert tuned.relative_l2() < tuned.compare_to_base() / 2


@pytest.mark.slow
def test_soft_form_with_weights_solves_the_problem():
    problem = Burgers(nu=0.1 / math.pi, form="soft")
    solved = pl.pretrain(
        problem, width=12, depth=2, max_steps=80, points=600, weights={"initial": 10.0, "dirichlet": 10.0}
    )
    assert solved.relative_l2() < 5e-3
    norms = solved.residual_norms()
    assert set(norms) == {"residual", "initial", "dirichlet"} and max(norms.values()) < 0.05


def test_adam_then_lbfgs_pretrains():
    solved = pl.pretrain(Burgers(nu=0.2 / math.pi), method="adam-lbfgs", width=8, depth=2, max_steps=450, points=200)
    assert solved.relative_l2() < 0.05
    steps = [record.step for record in solved.history]
    seconds = [record.seconds for record in solved.history]
    assert steps == sorted(set(steps)) and seconds == sorted(seconds)
    assert solved.settings["work"]["gradients"] > 150 + 250  # of both phases: L-BFGS takes at least one a step
    assert solved.settings["accepted"] > 150


@pytest.mark.parametrize(("width", "told"), [(64, "full-lm"), (144, "adam-lbfgs")])
def test_wide_networks_pretrain_by_implicit_steps_up_to_a_width(width, told):
    """12,801 and 63,361 unknowns on 64 points: where the residuals are fewer, a step costs no matrix of the unknowns."""
    solved = pl.pretrain(Burgers(nu=0.2 / math.pi), width=width, depth=4, max_steps=3, points=64)
    assert solved.settings["method"] == told and solved.history[-1].loss < solved.history[0].loss


def test_pretraining_stops_where_its_first_phase_diverges():
    problem = Burgers(nu=0.2 / math.pi)
    broken = pl.pretrain(
        problem, method="adam-lbfgs", width=8, depth=2, max_steps=45, points=200, step_size=1e6, seed=1
    )
    assert broken.status is pl.Status.DIVERGED
    assert broken.history[-1].step <= 15


@pytest.mark.parametrize("method", PRESETS)
def test_base_is_bit_identical_after_every_method(small_base, target, method):
    before = final(small_base)
    tuned = pl.finetune(small_base, target, method=method, rank=2, **SHORT)
    assert same(before, final(small_base))
    if PRESETS[method].trains == "factors":
        for name, layer in tuned.network.named_modules():
            if isinstance(layer, pl.LoRALinear):
                assert torch.equal(layer.weight, before[f"{name}.weight"])
                assert not torch.equal(layer.B @ layer.A, torch.zeros(1, dtype=layer.B.dtype)), "nothing was trained"


@pytest.mark.parametrize("method", ["odelora-implicit", "odelora-heun", "lora-adam", "lora-lbfgs"])
def test_same_seed_same_numbers(small_base, target, method):
    runs = [pl.finetune(small_base, target, method=method, rank=2, seed=3, **SHORT) for _ in range(2)]
    assert same(final(runs[0]), final(runs[1]))
    other = pl.finetune(small_base, target, method=method, rank=2, seed=4, **SHORT)
    assert not same(final(runs[0]), final(other))


def test_no_global_state_is_touched(small_base, target):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_default_dtype(), torch.get_num_threads()
    pl.finetune(small_base, target, rank=2, **SHORT)
    after = torch.get_rng_state(), np.random.get_state()[1], torch.get_default_dtype(), torch.get_num_threads()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2:] == after[2:]


@dataclass(frozen=True)
class WithoutReference(Burgers):
    """Burgers whose reference must not be read."""

    def reference(self, p):
        raise RuntimeError("the reference was read")


@pytest.mark.parametrize("method", ["odelora-implicit", "lora-adam"])
def test_training_does_not_read_the_reference(small_base, target, method):
    plain = pl.finetune(small_base, target, method=method, rank=2, **SHORT)
    blind = pl.finetune(small_base, WithoutReference(nu=target.nu), method=method, rank=2, **SHORT)
    assert same(final(plain), final(blind))
    assert all(math.isnan(record.relative_l2) for record in blind.history)
    with pytest.raises(ValueError, match="RuntimeError: the reference was read"):
        blind.relative_l2()


def test_a_run_that_blows_up_is_a_result(small_base, target):
    tuned = pl.finetune(small_base, target, method="lora-sgd", step_size=1e3, rank=2, max_steps=50, points=200)
    assert tuned.status == pl.Status.DIVERGED
    assert tuned.history[-1].step < 50


def test_budget_of_seconds_ends_a_run(small_base, target):
    tuned = pl.finetune(small_base, target, method="lora-sgd", step_size=1e-6, rank=2, max_seconds=0.05, points=200)
    assert tuned.status == pl.Status.EXHAUSTED
    assert tuned.history[-1].seconds >= 0.05


def test_lbfgs_converges_on_its_own(small_base):
    tuned = pl.finetune(
        small_base, small_base.problem, method="lora-lbfgs", rank=1, max_steps=5000, points=100, resample_every=None
    )
    assert tuned.status == pl.Status.CONVERGED


def test_points_are_added_only_where_the_held_out_loss_is_above_the_fitted_one(small_base, target):
    """All weights at 40 points fit these and nothing between them; at 600 a smooth solution leaves nothing to fit."""
    problem, options = Burgers(nu=0.5 / math.pi), {"width": 8, "depth": 2, "max_steps": 30}
    few, many = (pl.pretrain(problem, points=n, **options) for n in (40, 600))
    assert few.history[-1].points == 40 + 2 * 10  # at every chance
    assert many.history[-1].points == 600
    last = many.history[-1]
    assert last.held_out_loss < 1.5 * last.loss  # what it was judged by
    few, many = (pl.finetune(small_base, target, rank=4, max_steps=25, points=n) for n in (40, 600))
    assert (few.history[-1].points, many.history[-1].points) == (40 + 2 * 10, 600)


def test_a_number_of_steps_between_additions_is_kept_to(small_base, target):
    """So that the methods of a comparison see as many points: at 600 points none would be needed."""
    for made in (
        pl.pretrain(target, width=8, depth=2, points=600, max_steps=12, resample_every=5),
        pl.finetune(small_base, target, rank=2, points=600, max_steps=12, resample_every=5),
    ):
        assert made.history[-1].points == 600 + 2 * 150


def test_a_line_search_that_stops_brings_no_points_that_are_not_needed():
    ended = pl.pretrain(Burgers(nu=1.0), method="full-lbfgs", width=3, depth=1, points=300, max_steps=3000)
    last = ended.history[-1]
    assert ended.status == pl.Status.CONVERGED and last.step < 3000
    assert last.held_out_loss < 1.5 * last.loss and last.points == 300


def test_history_counts_points_work_and_drift(small_base, target):
    tuned = pl.finetune(small_base, target, rank=2, initializer="balanced", max_steps=6, points=100, resample_every=2)
    points = [record.points for record in tuned.history]
    assert points[0] == 100 and points[-1] == 150 and points == sorted(points)
    assert tuned.history[0].drift < 1e-14 < tuned.history[-1].drift
    assert tuned.history[0].work == 0 and tuned.history[-1].work > 0
    assert tuned.settings["work"]["jacobians"] >= tuned.settings["accepted"] >= 1


def test_float32_stays_float32(small_base, target):
    tuned = pl.finetune(small_base, target, rank=2, dtype="float32", max_steps=8, points=200)
    assert {value.dtype for value in tuned.network.state_dict().values()} == {torch.float32}
    assert tuned.relative_l2() < tuned.compare_to_base()


def test_a_method_of_ones_own(small_base, target):
    method = pl.Method(lift={"name": "chain_rule", "ratio": 16.0}, integrator="rosenbrock_euler")
    tuned = pl.finetune(small_base, target, method=method, rank=4, max_steps=25, points=300)
    assert tuned.relative_l2() < tuned.compare_to_base() / 4


def test_recorded_steps_hold_the_first_the_last_and_no_strangers():
    for n in (1, 2, 7, 150, 20_000):
        steps = _record_steps(n)
        assert {1, n} <= steps <= set(range(n + 1)) and len(steps) <= 102


def test_plain_module_is_pretrained_and_adapted_through_torch_func(plain_module):
    base = pl.pretrain(Burgers(nu=0.3 / math.pi, form="soft"), network=plain_module, max_steps=30, points=150)
    assert base.relative_l2() < 0.05
    tuned = pl.finetune(base, Burgers(nu=0.6 / math.pi, form="soft"), rank=3, max_steps=15, points=150)
    assert tuned.relative_l2() < tuned.compare_to_base() / 2


def test_blow_up_in_the_last_step_is_not_completed(small_base, target):
    tuned = pl.finetune(small_base, target, method="lora-sgd", step_size=1e3, rank=2, max_steps=1, points=100)
    assert tuned.history[-1].loss == pytest.approx(tuned.history[0].loss), "the loss where the only step began"
    assert tuned.status == pl.Status.DIVERGED


def test_optimizers_given_as_instances_take_the_presets_step_sizes(small_base, target):
    given = [pl.finetune(small_base, target, method=m, rank=2, max_steps=1, points=64) for m in (LBFGS(), Adam())]
    assert [solution.settings["step_size"] for solution in given] == [1.0, 1e-3]


def test_problem_that_cannot_be_hashed_has_a_reference_all_the_same(small_base):
    @dataclass
    class Loose(Burgers.__mro__[1]):
        nu: float = 0.2 / math.pi
        domain = Burgers.domain
        periodic = ("x",)
        residual, ansatz, reference, form = Burgers.residual, Burgers.ansatz, Burgers.reference, "ansatz"

    tuned = pl.finetune(small_base, Loose(), rank=2, max_steps=1, points=64)
    assert tuned.history[-1].relative_l2 == pytest.approx(tuned.relative_l2())


def test_no_network_given_is_the_default_one():
    options = {"width": 4, "depth": 1, "max_steps": 2, "points": 64}
    plain, none = (pl.pretrain(Burgers(nu=0.3), network=network, **options) for network in ("mlp", None))
    assert same(final(plain), final(none))


NUMPY = {
    "points": np.int64(64),
    "max_steps": np.int32(2),
    "seed": np.int64(3),
    "weights": {"residual": np.float32(2.0)},
}


def test_numbers_of_numpy_are_numbers_and_what_is_made_with_them_is_kept(tmp_path):
    """To the last bit those of Python, and from the disk as it was."""
    plain = {"points": 64, "max_steps": 2, "seed": 3, "weights": {"residual": 2.0}}
    base = pl.pretrain(Burgers(nu=0.5), width=4, depth=2, **plain)
    again = pl.pretrain(Burgers(nu=np.float32(0.5)), width=np.int64(4), depth=np.int64(2), **NUMPY)
    tuned = pl.finetune(base, Burgers(nu=0.25), rank=2, step_size=0.5, **plain)
    other = pl.finetune(again, Burgers(nu=np.float32(0.25)), rank=np.int64(2), step_size=np.float32(0.5), **NUMPY)
    assert same(final(base), final(again)) and same(final(tuned), final(other))
    loaded = pl.Solution.load(again.save(tmp_path / "base"))
    assert loaded.problem == base.problem and same(final(loaded), final(base))
    loaded = pl.Solution.load(other.save(tmp_path / "tuned"), base=loaded)
    assert loaded.problem == tuned.problem and same(final(loaded), final(tuned))
    told = lambda solution: {key: solution.settings[key] for key in ("seed", "points", "weights", "rank", "step_size")}  # noqa: E731
    assert told(loaded) == told(tuned)


def test_a_start_that_asks_for_the_gradient_gets_that_of_the_layers_with_a_rank(small_base, target):
    """The output layer is no hidden one."""
    last = f"layers.{len(small_base.network.layers) - 1}"
    tuned = pl.finetune(small_base, target, rank={last: 1}, initializer="lora_one", max_steps=1, points=64)
    assert [name for name, m in tuned.network.named_modules() if isinstance(m, LoRALinear)] == [last]


def test_pretraining_takes_a_preset_itself():
    options = {"width": 4, "depth": 1, "max_steps": 2, "points": 64}
    named, given = (pl.pretrain(Burgers(nu=0.3), method=m, **options) for m in ("full-adam", PRESETS["full-adam"]))
    assert same(final(named), final(given))
    assert given.settings["method"] == repr(PRESETS["full-adam"].method)


@pytest.mark.parametrize(
    ("method", "given", "taken"),
    [
        ("full-adam", {"resample_every": 7}, 7),
        ("full-adam", {}, 2),  # 30 // 15
        ("full-adam", {"resample_every": None}, None),
        ("full-lm", {"resample_every": 7}, 7),
        ("full-lm", {}, 10),
        ("adam-lbfgs", {"resample_every": 7}, 7),
    ],
)
def test_pretraining_adds_points_as_often_as_it_is_told(monkeypatch, method, given, taken):
    """A quarter of the first points each time, at most twice as many in all; here whatever the losses are."""
    monkeypatch.setattr(training, "OVERFIT", 0.0)
    few = {"width": 4, "depth": 1, "points": 64, "max_steps": 30}
    made = pl.pretrain(Burgers(nu=0.5, form="soft"), method=method, **few, **given)
    assert made.settings["budget"]["resample_every"] == taken
    for record in made.history[1:] if method in PRESETS else ():  # the others start anew with each phase
        assert record.points == 64 + (16 * min((record.step - 1) // taken, 8) if taken else 0)
