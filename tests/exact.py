"""Linear systems in fifty digits: what float64 is compared with where it has few digits left."""

import mpmath
import torch


def solved_exactly(A: torch.Tensor, b: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """The x of (A^T A + M) x = A^T b, rounded to float64."""
    with mpmath.workdps(50):
        rows, values, added = (mpmath.matrix(part.tolist()) for part in (A, b, M))
        found = mpmath.lu_solve(rows.T * rows + added, rows.T * values)
        return torch.tensor([float(x) for x in found], dtype=torch.float64)
