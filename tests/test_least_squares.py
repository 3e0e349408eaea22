"""Least squares by triangles, against fifty digits."""

import pytest
import torch
from exact import solved_exactly

from pinn_lora.least_squares import least_squares


def exact(A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """By the normal equations in fifty digits, of which a condition number of 1e10 costs twenty."""
    return solved_exactly(A, b, torch.zeros(A.shape[1], A.shape[1], dtype=torch.float64))


def problem(rows: int, unknowns: int, condition: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A with singular values from 1 to 1 / condition, and b, of which A x leaves a thousandth."""
    g = torch.Generator().manual_seed(7)
    U, V = (torch.linalg.qr(torch.randn(n, unknowns, generator=g, dtype=torch.float64)).Q for n in (rows, unknowns))
    A = (U * torch.logspace(0, -torch.tensor(condition).log10().item(), unknowns, dtype=torch.float64)) @ V.T
    x = torch.randn(unknowns, generator=g, dtype=torch.float64)
    return A, A @ x + 1e-3 * torch.randn(rows, generator=g, dtype=torch.float64), x


def parts(A, b, length):
    yield from zip(A.split(length), b.split(length), strict=True)


@pytest.mark.parametrize("length", [1, 5, 9, 60], ids="parts of {}".format)
@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
def test_the_error_grows_with_the_condition_number_and_not_with_its_square(condition, length):
    """What A x misses is off by some rounding errors times the condition; by A^T A it would be off entirely from 1e8 on."""
    A, b, x = problem(60, 12, condition)
    expected, found = exact(A, b), least_squares(parts(A, b, length), x)
    assert (A @ (found - expected)).norm() < 1e-14 * condition * b.norm()


@pytest.mark.parametrize("rows", [12, 13, 17, 18, 19, 40])
def test_every_number_of_rows_is_taken_whole(rows):
    """As many as the unknowns, as fit beside the triangle, and one more or less; 1e-10: the condition of such a matrix, 1e2,
    squared where b is missed, times rounding."""
    A, b, x = problem(rows, 12, 1e2)
    torch.testing.assert_close(least_squares(parts(A, b, 4), x), exact(A, b), rtol=0, atol=1e-10)


def test_one_unknown_is_an_average():
    b = torch.linspace(1.0, 4.0, 7, dtype=torch.float64)
    found = least_squares(parts(torch.ones(7, 1, dtype=torch.float64), b, 3), b[:1])
    assert found.item() == pytest.approx(2.5, rel=1e-14)
