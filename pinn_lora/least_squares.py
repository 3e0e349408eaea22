"""Linear least squares whose rows come in parts: in the memory of a few triangles, and on every device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def least_squares(parts: Iterable[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """The x (P,) of least |A x - b|, with A (n, P) and b (n,) in parts of any length; `like`: a tensor (P,) of its type.

    The triangle T of [A, b] = Q T is brought up to date by half as many rows at a time as it has, which is TSQR in sequence
    (Demmel, Grigori, Hoemmen & Langou 2012): A is never whole in memory, A^T A is never formed, so that the condition number
    is A's own, and a QR factorisation is all it takes. Where A has not full rank x is not finite, or what rounding makes of it.
    """
    size = len(like) + 1
    stack, filled = like.new_zeros(size + max(size // 2, 1), size), size
    for A, b in parts:
        at = 0
        while at < len(b):
            end = min(at + len(stack) - filled, len(b))
            place = slice(filled, filled := filled + end - at)
            stack[place, :-1], stack[place, -1] = A[at:end], b[at:end]
            at = end
            if filled == len(stack):
                stack[:size], filled = torch.linalg.qr(stack, mode="r").R, size
    T = torch.linalg.qr(stack[:filled], mode="r").R
    return torch.linalg.solve_triangular(T[:-1, :-1], T[:-1, -1:], upper=True)[:, 0]
