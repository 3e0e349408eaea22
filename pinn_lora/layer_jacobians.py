"""The Jacobian of residuals in what is trained of a layer, from the layer's input and the adjoint of what it makes.

Everything here may have leading dimensions, one network each. Where a residual sees several point sets, they follow each
other in the adjoints D (..., S, sets N, m) and the inputs H (..., S, sets N, n); J is (..., P, N).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pinn_lora.lora import DenseBlock
from pinn_lora.passes import LayerPlan


def fill_layer(plan: LayerPlan, factors: tuple[Tensor, ...], D: Tensor, H: Tensor, J: Tensor) -> None:
    """Writes a layer's blocks of J: dr_i/dW = sum_s D_si H_si^T and its products with the factors."""
    pieces = [J[..., block.slice, :] for block in plan.blocks]
    D, H = (x.movedim(-1, -3) for x in (D, H))
    if plan.pair is not None:
        (B, A), rows = factors, pieces.pop(0)
        size = plan.pair.sizes[0]
        _outer(D, plan.pair.scale * _mapped(A, H), out=rows[..., :size, :])
        _outer(plan.pair.scale * _mapped(B.mT, D), H, out=rows[..., size:, :])
    if plan.weight is not None:
        _outer(D if plan.s is None else factors[0][..., None, None] * D, H, out=pieces.pop(0))
    if plan.s is not None:  # dW/ds_i is row i of W
        _sum_sets((D * _mapped(factors[1], H)).sum(-2), out=pieces.pop(0))
    if plan.bias is not None:
        _sum_sets(D[..., 0, :], out=pieces.pop(0))


def fill_alpha(alpha: DenseBlock, rows: Sequence[Tensor], J: Tensor) -> None:
    """Writes alpha's block of J from the derivatives (..., sets N) in each of its entries."""
    _sum_sets(torch.stack(list(rows), -2), out=J[..., alpha.slice, :])


def _mapped(matrix: Tensor, H: Tensor) -> Tensor:
    """The matrix (..., r, n) times every column of H (..., n, S, N)."""
    return (matrix @ H.flatten(-2)).unflatten(-1, H.shape[-2:])


def _sum_sets(rows: Tensor, *, out: Tensor) -> None:
    """Of rows (..., m, sets N) the sum over the sets, (..., m, N)."""
    torch.sum(rows.unflatten(-1, (-1, out.shape[-1])), -2, out=out)


def _outer(D: Tensor, H: Tensor, *, out: Tensor) -> None:
    """out (..., m n, N) = sum_s D_s H_s^T at each of the N points, for D (..., m, S, N) and H (..., n, S, N)."""
    n = out.shape[-1]
    D, H, out = D.contiguous(), H.contiguous(), out.unflatten(-2, (D.shape[-3], H.shape[-3]))
    for k in range(D.shape[-1] // n):
        for s in range(D.shape[-2]):
            left, right = (x[..., s, k * n : (k + 1) * n] for x in (D, H))
            if k == s == 0:
                torch.mul(left.unsqueeze(-2), right.unsqueeze(-3), out=out)
            else:
                out.addcmul_(left.unsqueeze(-2), right.unsqueeze(-3))
