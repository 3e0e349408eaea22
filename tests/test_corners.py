"""References on polygons: they solve the equation, vanish on the boundary, and agree with a finite-difference solution."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from pinn_lora.problems.poisson_lshape import CORNERS, PoissonLShape

import pinn_lora as pl
from pinn_lora.references.corners import solve_polygon

SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def series_on_the_square(x, y, k):
    """Double sine series of the solution on the unit square, 400 modes a coordinate; what is left out falls like 1 / 400^2."""
    n = np.arange(1, 400, 2)
    a, b = n[:, None], n[None, :]
    c = 16 / (np.pi**2 * a * b) / (np.pi**2 * (a**2 + b**2) + k)
    return np.einsum("ab,ap,bp->p", c, np.sin(np.pi * np.outer(n, x)), np.sin(np.pi * np.outer(n, y)))


@pytest.mark.parametrize("k", [0.0, 1e-6, 20.0])
@pytest.mark.parametrize("vertices", [SQUARE, SQUARE[::-1]])
def test_the_square_agrees_with_its_sine_series(k, vertices):
    """The series' tail is below 1e-7 inside."""
    solution = solve_polygon(vertices, k)
    x, y = 0.1 + 0.8 * np.random.default_rng(0).random((2, 40))
    assert solution.error < 1e-11
    assert np.abs(solution(x, y) - series_on_the_square(x, y, k)).max() < 1e-7


@pytest.mark.parametrize("k", [0.0, 7.0, 30.0])
def test_on_the_lshape_the_equation_holds_and_the_boundary_is_zero(k):
    """Central differences of order 4 at h = 0.01, inside by 0.1: truncation below 1e-5 of the right-hand side; on the boundary
    the values are within the stated error, at many more points than those it is taken at."""
    solution = solve_polygon(CORNERS, k)
    points = PoissonLShape().domain.sample(400, seed=1).numpy()
    h, steps = 0.01, np.arange(-2, 3)
    weights = np.array([-1, 16, -30, 16, -1]) / (12 * h**2)
    inner = points[PoissonLShape().domain.contains(torch.from_numpy(points + 0.1)).numpy()]
    x, y = inner[(np.abs(inner) < 0.9).all(1)].T
    laplacian = sum(w * (solution(x + s * h, y) + solution(x, y + s * h)) for w, s in zip(weights, steps, strict=True))
    assert len(x) > 100 and np.abs(-laplacian + k * solution(x, y) - 1).max() < 1e-5
    t = 0.5 - 0.5 * np.cos(np.pi * (np.arange(20011) + 0.5) / 20011)
    ends = zip(np.array(CORNERS), np.roll(CORNERS, -1, axis=0), strict=True)
    largest = max(np.abs(solution(*(a[:, None] + np.outer(b - a, t)))).max() for a, b in ends)
    assert 0.4 * solution.error <= largest <= solution.error
    assert solution.error < 1e-9


def test_the_lshape_agrees_with_finite_differences():
    """Five-point differences on the grid h = 1/64: the corner makes it err by order h^(4/3), some 5e-3 of the norm."""
    n, k = 128, 5.0
    axis = np.linspace(-1, 1, n + 1)
    X, Y = np.meshgrid(axis, axis, indexing="ij")
    free = (np.abs(X) < 1 - 1e-9) & (np.abs(Y) < 1 - 1e-9) & ~((X > -1e-9) & (Y > -1e-9))
    number = np.full(free.shape, -1)
    number[free] = np.arange(free.sum())
    rows, columns, values = [number[free]], [number[free]], [np.full(free.sum(), 4 / (2 / n) ** 2 + k)]
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        other = np.roll(number, shift, (0, 1))[free]
        rows.append(number[free][other >= 0])
        columns.append(other[other >= 0])
        values.append(np.full((other >= 0).sum(), -1 / (2 / n) ** 2))
    matrix = scipy.sparse.csc_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))))
    found = scipy.sparse.linalg.spsolve(matrix, np.ones(free.sum()))
    expected = PoissonLShape(f=2.0, k=k).reference(pl.problem.Coordinates((X[free], Y[free]), ("x", "y"))) / 2.0
    assert np.linalg.norm(found - expected) < 1e-2 * np.linalg.norm(expected)


def test_a_reference_that_is_not_accurate_enough_is_refused():
    grid = PoissonLShape().domain.grid(5)[1]
    assert PoissonLShape(k=40.0).reference_error() < 1e-6
    for k in (50, 400):
        with pytest.raises(ValueError, match=rf"at k = {k} the reference may err by .*; choose a smaller k"):
            PoissonLShape(k=float(k)).reference_values(grid)


@pytest.mark.parametrize(
    ("coefficients", "said"), [({"f": 0.0}, "f is 0.0"), ({"k": -1.0}, "the absorption k is -1.0")]
)
def test_bad_coefficients_get_one_sentence(coefficients, said):
    with pytest.raises(ValueError, match=f"PoissonLShape: {said}; it must be a number"):
        PoissonLShape(**coefficients)


def test_training_and_adapting_come_near_the_true_solution():
    """The corner is rough: 600 points and 60 steps give a few percent. Adapting to k = 5 gets well below zero-shot."""
    weights = {"dirichlet": 100.0}
    base = pl.pretrain(PoissonLShape(), width=16, depth=2, max_steps=60, points=600, weights=weights)
    assert base.relative_l2() < 0.12
    tuned = pl.finetune(base, PoissonLShape(k=5.0), rank=4, max_steps=30, points=600, weights=weights)
    assert tuned.relative_l2() < 0.3 * tuned.compare_to_base()
