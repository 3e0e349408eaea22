"""Derivatives of a function that can only be evaluated, by differences of high order inside a box, with their own error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from pinn_lora.jets import Index, summed

LEVELS = 6  # spacings that are tried: a sixteenth of the box, then a third of the one before
NODES = 8  # nodes of a stencil beyond the order of its derivative: at least so high is its order of accuracy

Values = Callable[[np.ndarray], np.ndarray]


@cache
def stencil(nodes: int, at: int, order: int) -> np.ndarray:
    """Weights (nodes,) that give the derivative of that order at node `at` of nodes with spacing 1, from Lagrange's
    polynomials: their coefficients are whole numbers, which are exact in float64."""
    x = np.arange(nodes) - at
    found = []
    for node in x:
        others = x[x != node]
        found.append(math.factorial(order) * np.poly(others)[-1 - order] / np.prod(node - others))
    return np.array(found)


def difference(
    values: Values, points: np.ndarray, index: Index, lower: Sequence[float], upper: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The derivative (n, fields) of `values`, a map (m, d) -> (m, fields), that `index` names at points (n, d), and by how
    much it is uncertain (n, fields).

    No value outside the box is asked for: near a face the stencil is one-sided. Of all spacings the one is taken, point by
    point, whose neighbours agree with it best; their distance is the uncertainty. Without an index: the values, no
    uncertainty.
    """
    if not index:
        found = values(points)
        return found, np.zeros_like(found)
    if len(parts := summed(index)) > 1:
        all_parts = np.array([difference(values, points, part, lower, upper) for part in parts])
        return all_parts[:, 0].sum(0), all_parts[:, 1].sum(0)
    tried = np.array([_at_level(values, points, index, lower, upper, level) for level in range(LEVELS)])
    apart = np.abs(np.diff(tried, axis=0))
    uncertain = np.maximum(apart[:-1], apart[1:])
    best = np.expand_dims(np.argmin(np.where(np.isnan(uncertain), np.inf, uncertain), axis=0), 0)
    return np.take_along_axis(tried[1:-1], best, 0)[0], np.take_along_axis(uncertain, best, 0)[0]


def _at_level(values, points, index, lower, upper, level: int) -> np.ndarray:
    """The derivative by one spacing: a product of stencils, one for each coordinate of the index."""
    n, nodes, weights = len(points), points[:, None, :], np.ones((len(points), 1))
    for number, order in Counter(index).items():
        h = (upper[number] - lower[number]) / 16.0 / 3.0**level
        size = NODES + order
        left, right = (np.floor(room / h + 1e-9) for room in _room(points[:, number], lower[number], upper[number]))
        at = np.clip(np.full(n, size // 2), size - 1 - right, left).astype(int)
        offsets = (np.arange(size) - at[:, None]) * h
        own = np.stack([stencil(size, k, order) for k in at]) / h**order
        nodes = np.repeat(nodes[:, :, None, :], size, axis=2)
        nodes[..., number] += offsets[:, None, :]
        nodes = nodes.reshape(n, -1, nodes.shape[-1])
        weights = (weights[:, :, None] * own[:, None, :]).reshape(n, -1)
    found = values(nodes.reshape(-1, nodes.shape[-1])).reshape(n, weights.shape[1], -1)
    return np.einsum("nk,nkf->nf", weights, found)


def _room(x: np.ndarray, lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    return x - lower, upper - x
