"""Symmetric matrices by their lower triangle against dense formulas: float64, 1e-13 of the size of what is added up."""

import pytest
import torch

from pinn_lora import lower

SIZES = [1, 5, 7, 9, 31, 32, 45]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def positive(size: int) -> torch.Tensor:
    X = random(size, size)
    return X @ X.T + size * torch.eye(size, dtype=torch.float64)


def hidden(matrix: torch.Tensor) -> torch.Tensor:
    """Nothing may read what is above the diagonal."""
    return matrix.tril() + torch.full_like(matrix, torch.nan).triu(1)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_mirrored_whatever_the_blocks_are(size, monkeypatch):
    monkeypatch.setattr(lower, "BLOCK", 3)
    whole = random(size, size)
    lower.mirror(found := whole.clone())
    assert torch.equal(found, whole.tril() + whole.tril(-1).T)


@pytest.mark.parametrize("size", SIZES)
def test_products_are_added_whatever_the_blocks_are(size, monkeypatch):
    """Both widths of the blocks: 2 below 32 unknowns, 8 from there on."""
    monkeypatch.setattr(lower, "BLOCK", 8)
    J = random(20, size)
    lower.add_products(H := torch.ones(size, size, dtype=torch.float64), J, 0.5)
    torch.testing.assert_close(H.tril(), (1.0 + 0.5 * J.T @ J).tril(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_a_quadratic_form_is_the_whole_matrixs_whatever_the_blocks_are(size, monkeypatch):
    monkeypatch.setattr(lower, "BLOCK", 3)
    H, d = positive(size), random(size)
    assert float(lower.quadratic(hidden(H), d)) == pytest.approx(float(d @ H @ d), rel=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_a_factor_lies_in_its_matrix_and_solves(size):
    """x to 1e-12: the condition is below ten."""
    H, b = positive(size), random(size)
    given = hidden(H)
    L = lower.factor(given)
    assert L is not None and L.data_ptr() == given.data_ptr() and L.is_contiguous()
    torch.testing.assert_close(L, torch.linalg.cholesky(H), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lower.solve(L, b), torch.linalg.solve(H, b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
@pytest.mark.parametrize("place", [(0, 0), (4, 4), (4, 0), (3, 2)])
def test_there_is_no_factor_of_what_is_not_finite_or_not_positive(bad, place):
    H = positive(5)
    H[place] = 1e3 * bad
    assert lower.factor(H) is None
