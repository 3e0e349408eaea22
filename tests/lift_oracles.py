"""What the tests of lifts share: options, pairs with gradients, and dense oracles with the Jacobian of (B, A) -> B A."""

import torch

from pinn_lora import catalog, lifts
from pinn_lora.lifts import Lift, Pair
from pinn_lora.metrics import Weights

SHAPES = [(5, 4, 2), (4, 6, 3), (3, 3, 3), (6, 2, 1)]  # m, n, r
SCALES = [1.0, 0.3, 8.0]


def build(name, options=None) -> Lift:
    return catalog.build(lifts, Lift, {"name": name, **(options or {})})


LIFTS = catalog.names(lifts)
OPTIONS = {  # other settings than the defaults; a lift that is not here is tested with its defaults
    "balanced": [{}, {"eps": 1e-8}, {"eps": 0.5}, {"eps": 0.0}],
    "block_diagonal": [{}, {"eps": 1e-8}, {"eps": 0.5}, {"eps": 0.0}],
    "chain_rule": [{}, {"ratio": 16.0}, {"ratio": 3.0}],
    "lora_pro": [
        {"gauge": gauge, "eps": eps} for gauge in ("zero", "symmetry", "sylvester") for eps in (1e-4, 0.5, 0.0)
    ],
    "one_factor": [{}, {"side": "A"}, {"side": "A", "eps": 0.0}],
    "refactored": [{}, {"eps": 0.5}, {"eps": 0.0}],
    "weighted": [{}, {"lam": 0.3}, {"lam": 2.0, "eps": 0.5}, {"lam": 0.1, "eps": 0.0}],
}
CASES = [(name, options) for name in LIFTS for options in OPTIONS.get(name, [{}])]


def pair_and_gradients(shape, scale=1.0, *, seed=0, balanced=False, zero_b=False):
    """Generic factors, the dense gradient G, and what autograd gives: s G A^T and s B^T G."""
    (m, n, r), generator = shape, torch.Generator().manual_seed(seed)
    B, A, G = (torch.randn(k, generator=generator, dtype=torch.float64) for k in ((m, r), (r, n), (m, n)))
    B = B * torch.linspace(0.5, 2.0, r)  # columns of different lengths
    if balanced:
        B, A = torch.linalg.qr(B).Q, torch.linalg.qr(A.T).Q.T
    if zero_b:
        B = torch.zeros_like(B)
    return Pair(B, A, scale), G, scale * G @ A.T, scale * B.T @ G


def flat(*parts) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def product_jacobian(pair: Pair) -> torch.Tensor:
    """J (m n, m r + r n) of (vec B, vec A) -> vec B A, by autograd."""
    (m, r), n = pair.B.shape, pair.A.shape[1]

    def product(y):
        return (y[: m * r].view(m, r) @ y[m * r :].view(r, n)).reshape(-1)

    return torch.autograd.functional.jacobian(product, flat(pair.B, pair.A))


def plain(pair: Pair) -> Weights:
    """The identity metric."""
    return Weights(torch.ones(len(pair.B)).to(pair.B), torch.ones(pair.A.shape[1]).to(pair.A))


def uneven(pair: Pair) -> Weights:
    """A metric that is not the identity."""
    P, Q = (torch.linspace(0.3, 2.0, k).to(pair.B) for k in (len(pair.B), pair.A.shape[1]))
    return Weights(P, Q.flip(0))


def metric_of(lift: Lift, pair: Pair) -> Weights:
    """A metric that the lift must see, where it sees one."""
    return uneven(pair) if lift.uses_metric else plain(pair)


def velocity(lift: Lift, pair: Pair, gB, gA, metric: Weights | None = None) -> torch.Tensor:
    return flat(*lift.velocity(pair, gB, gA, metric_of(lift, pair) if metric is None else metric))


def assert_equal(found, expected, tolerance=1e-10):
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()
