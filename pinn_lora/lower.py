"""Symmetric matrices of which only what is on and below the diagonal counts: above it there may be anything."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 192  # columns that are made together: a multiple of the blocks of the BLAS


def add_products(H: Tensor, J: Tensor, weight: float) -> None:
    """H += weight J^T J, by blocks of columns: faster than the whole product."""
    width = BLOCK if len(H) >= 4 * BLOCK else BLOCK // 4
    for start in range(0, len(H), width):
        H[start:, start : start + width].addmm_(J.T[start:], J[:, start : start + width], alpha=weight)


def mirror(H: Tensor) -> None:
    """Copies what is below the diagonal to above it, by blocks and in place."""
    for start in range(0, len(H), BLOCK):
        end = start + BLOCK
        H[start:end, end:] = H[end:, start:end].T
        corner = H[start:end, start:end]
        corner.copy_(corner.tril() + corner.tril(-1).T)


def quadratic(H: Tensor, d: Tensor) -> Tensor:
    """d^T H d."""
    found = d.new_zeros(())
    for start in range(0, len(H), BLOCK):
        end = start + BLOCK
        corner, part = H[start:end, start:end], d[start:end]
        found += (H.diagonal()[start:end] * part) @ part
        found += 2.0 * (part @ (corner.tril(-1) @ part) + d[end:] @ (H[end:, start:end] @ part))
    return found


def factor(H: Tensor) -> Tensor | None:
    """L with L L^T = H, in H's own memory; None where rounding defeats it, or where it is not finite.

    To LAPACK, which counts by columns, the lower triangle is the upper one of the transposed: so nothing is copied."""
    failed = torch.empty((), dtype=torch.int32, device=H.device)
    torch.linalg.cholesky_ex(H.mT, upper=True, out=(H.mT, failed))
    sound = H.diagonal().isfinite().all() & (failed == 0)  # one answer that a device is waited for
    return H if sound else None


def solve(L: Tensor, b: Tensor) -> Tensor:
    """x (n,) with L L^T x = b. As torch.cholesky_solve gives it, which copies L first."""
    half = torch.linalg.solve_triangular(L, b[:, None], upper=False)
    return torch.linalg.solve_triangular(L.mT, half, upper=True)[:, 0]
