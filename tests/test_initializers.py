"""Every start: shapes, type, that its generator alone decides it, and what each promises."""

import math

import pytest
import torch

from pinn_lora import catalog, initializers
from pinn_lora.initializers import Initializer

STARTS = catalog.names(initializers)
SHAPES = [(6, 4), (4, 6), (5, 5), (1, 7)]


def start(name, weight, rank, seed=0, **options):
    rule = catalog.build(initializers, Initializer, {"name": name, **options})
    return rule.factors(weight, rank, torch.Generator().manual_seed(seed))


def weight(m: int, n: int) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", STARTS)
def test_shapes_up_to_the_full_rank(name, shape):
    for rank in range(1, min(shape) + 1):
        B, A = start(name, weight(*shape), rank)
        assert (B.shape, A.shape) == ((shape[0], rank), (rank, shape[1]))
        assert B.dtype == A.dtype == torch.float64
        assert B.isfinite().all()
        assert A.isfinite().all()
        assert torch.linalg.matrix_rank(A) == rank  # the adapter can learn along r directions


@pytest.mark.parametrize("name", STARTS)
def test_the_generator_decides_and_nothing_else_moves(name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    W = weight(6, 5)
    before = W.clone()
    first, again = (start(name, W, 2, seed=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(W, before)


def test_zero_b_is_kaimings():
    """A uniform in +-1/sqrt(n): variance 1/(3 n), within 3 % for 40,000 numbers."""
    B, A = start("zero_b", weight(6, 400), 5)
    assert not B.any()
    assert A.abs().max() <= 1 / math.sqrt(400)
    large = torch.cat([start("zero_b", weight(1, 400), 1, seed=s)[1] for s in range(100)])
    assert large.var().item() == pytest.approx(1 / 1200, rel=0.03)
    assert abs(large.mean().item()) < 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1 / math.sqrt(3.0), 0.1, 2.0])
def test_balanced_is_on_the_balanced_manifold(shape, size):
    rank = min(shape)
    B, A = start("balanced", weight(*shape), rank, size=size)
    expected = size**2 * torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(B.T @ B, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(A @ A.T, expected, rtol=0, atol=1e-14)


def test_balanced_by_default_has_the_norm_of_kaimings_start():
    """E ||A||_F^2 = r n / (3 n) = r / 3 for both."""
    _, A = start("balanced", weight(30, 20), 4)
    assert A.square().sum().item() == pytest.approx(4 / 3, rel=1e-12)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_balanced_refuses_a_size_that_is_none(size):
    with pytest.raises(ValueError, match=f"balanced: size is {size}; it must be a positive number"):
        start("balanced", weight(3, 3), 1, size=size)
