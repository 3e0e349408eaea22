"""Solutions: predictions, judgements, pictures, and adapters that come back from disk as they were."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pinn_lora.problems.allen_cahn_ball import AllenCahnBall
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora.adapters import read_notes
from pinn_lora.solution import grid_points, grid_reference, relative_error


@pytest.fixture(scope="module")
def tuned(small_base):
    return pl.finetune(small_base, Burgers(nu=0.2 / math.pi), rank=2, max_steps=6, points=200)


def test_predict_numpy_and_tensors(tuned):
    points = tuned.problem.domain.sample(17)
    found = tuned.predict(points)
    assert isinstance(found, torch.Tensor) and found.shape == (17, 1)
    assert np.array_equal(tuned.predict(points.numpy()), found.numpy())
    assert tuned.predict(points.tolist()).shape == (17, 1)


def test_prediction_obeys_the_ansatz(tuned):
    x = np.linspace(-1, 1, 21)
    at_start = tuned.predict(np.stack([x, np.zeros_like(x)], axis=1))[:, 0]
    assert np.allclose(at_start, -np.sin(np.pi * x), atol=1e-15)


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((4, 3))])
def test_points_of_another_shape_are_refused(tuned, points):
    with pytest.raises(ValueError, match=r"give \(n, 2\), one column for each of x, t"):
        tuned.predict(points)


def test_relative_l2_is_the_error_on_the_grid(small_base, users_grid):
    tuned = pl.finetune(small_base, Burgers(nu=0.2 / math.pi), rank=2, max_steps=2, points=64)
    x, t = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, 161), np.linspace(0, 1, 161), indexing="ij"))
    found = tuned.predict(np.stack([x, t], axis=1))[:, 0]
    points = pl.Domain(x=(-1.0, 1.0), t=(0.0, 1.0)).grid(161)[1]
    reference = tuned.problem.reference_values(points)[:, 0]
    expected = math.sqrt(((found - reference) ** 2).sum() / (reference**2).sum())
    assert tuned.relative_l2() == pytest.approx(expected, rel=1e-12)
    assert tuned.history[-1].relative_l2 == pytest.approx(expected, rel=1e-12)


def test_a_reference_is_made_once_for_the_same_problem_and_is_its_own():
    """Also where a coefficient is one that equality does not see."""

    class Lifted(Burgers):
        def __init__(self, c):
            super().__init__(nu=0.1)
            object.__setattr__(self, "c", c)

        def reference(self, p):
            return self.c + super().reference(p)

    assert Lifted(1.0) == Lifted(2.0)
    for c in (1.0, 2.0):
        assert np.array_equal(grid_reference(Lifted(c)), Lifted(c).reference_values(grid_points(Lifted(c))))
    assert grid_reference(Burgers(nu=0.1)) is grid_reference(Burgers(nu=0.1))


def test_compare_to_base_is_the_base_unchanged(small_base, tuned):
    assert tuned.compare_to_base() == pytest.approx(tuned.history[0].relative_l2, rel=1e-12)
    with pytest.raises(ValueError, match="there is no base to compare with"):
        small_base.compare_to_base()


def test_residual_norms_name_every_term(small_base, tuned):
    assert set(tuned.residual_norms()) == {"residual"}
    soft = pl.Solution(Burgers(nu=0.1 / math.pi, form="soft"), small_base.network)
    assert set(soft.residual_norms()) == {"residual", "initial", "dirichlet"}


@dataclass(frozen=True)
class Heat(pl.Problem):
    """u_t = u_xx without a reference."""

    domain = pl.Domain(x=(0.0, 1.0), t=(0.0, 1.0))

    def residual(self, p, u):
        return u.t - u.xx


def test_problem_without_reference_says_so():
    solved = pl.pretrain(Heat(), width=4, depth=1, max_steps=2, points=50)
    with pytest.raises(ValueError, match="Heat has no reference"):
        solved.relative_l2()
    assert solved.residual_norms()["residual"] >= 0


def test_plot_writes_a_picture(tuned, tmp_path):
    assert tuned.plot(tmp_path / "u.png").read_bytes()[:4] == b"\x89PNG"
    pl.Solution(Heat(), pl.MLP(Heat.domain, width=4, depth=1)).plot(tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 5000


@dataclass(frozen=True)
class Flow(Heat):
    """Of two fields, the second of which is zero."""

    fields = ("u", "pressure")

    def reference(self, p):
        return p.x, 0.0 * p.x


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("field", "label", "title"), [(0, "u", "error, relative L2 "), (1, "pressure", "error"), (-1, "pressure", "error")]
)
def test_a_picture_names_its_field_and_states_a_relative_error_where_there_is_one(
    field, label, title, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure))
    pl.Solution(Flow(), pl.MLP(Flow.domain, fields=2, width=4, depth=1)).plot(tmp_path / "u.png", field=field)
    value, error, *bars = drawn[0].axes
    assert [bar.get_ylabel() for bar in bars] == [label, f"|{label} - reference|"]
    assert error.get_title().startswith(title) and ("relative" in error.get_title()) == (field == 0)
    assert value.get_title() == "solution"


@pytest.mark.parametrize("field", [2, -3, "u", None])
def test_a_field_that_is_not_there_is_not_drawn(field):
    network = pl.MLP(Flow.domain, fields=2, width=4, depth=1)
    with pytest.raises(ValueError, match=rf"^field is {field!r}, and the fields are numbered from 0 to 1$"):
        pl.Solution(Flow(), network).plot("never.png", field=field)


def test_plot_draws_two_coordinates_only():
    """It says so before a grid in ten coordinates is made, which would be larger than any memory."""
    problem = AllenCahnBall()
    with pytest.raises(ValueError, match="plot draws problems with 2 coordinates; AllenCahnBall has 11"):
        pl.Solution(problem, pl.MLP(problem.domain, width=4, depth=1)).plot("never.png")


def test_saved_solutions_come_back(small_base, tuned, tmp_path):
    small_base.save(tmp_path / "base")
    tuned.save(tmp_path / "tuned")
    base = pl.Solution.load(tmp_path / "base")
    again = pl.Solution.load(tmp_path / "tuned", base=base)
    points = tuned.problem.domain.sample(50)
    assert torch.equal(base.predict(points), small_base.predict(points))
    assert torch.equal(again.predict(points), tuned.predict(points))
    assert again.problem == tuned.problem and again.status == tuned.status
    assert read_notes(again.save(tmp_path / "again")) == read_notes(tmp_path / "tuned"), "its seconds too"
    with pytest.raises(ValueError, match=r"^base is of type str; give a Solution, as pretrain returns it$"):
        pl.Solution.load(tmp_path / "tuned", base="base")


def test_repr_is_short(tuned):
    assert len(repr(tuned)) < 1200 and "layers" not in repr(tuned)


def test_the_relative_error_is_that_of_the_norms_and_nan_where_it_overflows():
    found, reference = np.random.default_rng(0).standard_normal((2, 500, 3))
    by_norms = np.linalg.norm(found - reference) / np.linalg.norm(reference)
    assert relative_error(found, reference) == pytest.approx(by_norms, rel=1e-14)
    assert math.isnan(relative_error(1e200 * found, reference))


@pytest.mark.filterwarnings("error")
def test_there_is_no_relative_error_to_zero():
    zero = np.zeros((5, 1))
    assert math.isnan(relative_error(zero + 1.0, zero)) and math.isnan(relative_error(zero, zero))


def test_an_error_leaves_no_thread_spinning():
    """A BLAS of several threads lets them spin for some milliseconds after every call, and a run's seconds are the process's:
    200 errors on the grid of two coordinates, CPU seconds of the process over those of the thread."""
    code = (
        "import time, numpy as np\n"
        "from pinn_lora.solution import relative_error\n"
        "a, b = np.random.default_rng(0).standard_normal((2, 25921, 1))\n"
        "process, thread = time.process_time(), time.thread_time()\n"
        "for _ in range(200): relative_error(a, b), time.sleep(0.002)\n"
        "print((time.process_time() - process) / (time.thread_time() - thread))\n"
    )
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2
