"""A network's steps: forward and adjoint of a program in which registers are read more than once, against autograd."""

import pytest
import torch

from pinn_lora.jets import closure
from pinn_lora.program import Frame, Layer, Wiring, adjoint_jets, forward_jets

SETS = {"value": closure([]), "first": closure([(0,)]), "xx_t": closure([(0, 0), (1,)]), "xxt": closure([(0, 0, 1)])}


def wired() -> Wiring:
    """Every kind of step; encoders, a difference and a residual connection that are read several times."""
    wiring = Wiring(3)
    u, v = wiring.dense(0, 4), wiring.dense(0, 4)
    w = wiring.difference(u, v)
    h = wiring.gate(wiring.dense(0, 4), w, v)
    x = wiring.mix(wiring.dense(h, 4), h)
    x = wiring.mix(wiring.gate(x, w, u), x)
    wiring.linear(x, 2)
    return wiring


def frame_of(wiring: Wiring, indices, *, watched: bool = False, dtype=torch.float64) -> Frame:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(watched)  # noqa: E731
    layers = [Layer(draw(m, n), draw(m)) for m, n in wiring.shapes]
    return Frame(layers, draw(wiring.connections), indices, "tanh")


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("indices", SETS.values(), ids=SETS.keys())
def test_the_adjoint_is_the_transpose_of_the_forward_jets(indices):
    """<seed, output jets> has the gradient D^T H in a layer's weight, D of the value in its bias, and the sum over the points
    in an alpha."""
    wiring = wired()
    features, seed = drawn(len(indices), 9, 3, seed=2), drawn(len(indices), 9, 2, seed=3)
    frame = frame_of(wiring, indices)
    record = forward_jets(wiring.steps, frame, features)
    assert len(record.values) == len(wiring.steps) + 1
    found = adjoint_jets(wiring.steps, frame, record, seed)

    watched = frame_of(wiring, indices, watched=True)
    (forward_jets(wiring.steps, watched, features).values[-1] * seed).sum().backward()
    for step in wiring.steps:
        if step.layer is not None:
            D, H, layer = found.layers[step.layer], record.values[step.sources[0]], watched.layers[step.layer]
            torch.testing.assert_close(torch.einsum("snm,snk->mk", D, H), layer.weight.grad, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(D[0].sum(0), layer.bias.grad, rtol=1e-11, atol=1e-11)
    rows = torch.stack([found.connections[k].sum() for k in range(2)])
    torch.testing.assert_close(rows, watched.alpha.grad, rtol=1e-11, atol=1e-11)


def test_the_adjoint_goes_no_further_than_what_is_live():
    """Only registers above the fourth layer: the same numbers there, and nothing below."""
    wiring, indices = wired(), SETS["xx_t"]
    frame = frame_of(wiring, indices)
    features, seed = drawn(len(indices), 9, 3, seed=2), drawn(len(indices), 9, 2, seed=3)
    record = forward_jets(wiring.steps, frame, features)
    first = next(i for i, step in enumerate(wiring.steps, start=1) if step.layer == 3)
    live = [register >= first for register in range(len(wiring.steps) + 1)]
    some, whole = (adjoint_jets(wiring.steps, frame, record, seed, keep) for keep in (live, None))
    assert set(some.layers) == {3, 4}
    for layer, D in some.layers.items():
        torch.testing.assert_close(D, whole.layers[layer], rtol=0, atol=0)
    torch.testing.assert_close(some.connections, whole.connections, rtol=0, atol=0)


def test_nothing_is_written_into_what_a_pass_was_given():
    wiring, indices = wired(), SETS["xxt"]
    frame = frame_of(wiring, indices)
    features, seed = drawn(len(indices), 9, 3, seed=2), drawn(len(indices), 9, 2, seed=3)
    record = forward_jets(wiring.steps, frame, features)
    held = [*record.values, seed, frame.alpha, *(t for layer in frame.layers for t in layer)]
    before = [t.clone() for t in held]
    adjoint_jets(wiring.steps, frame, record, seed)
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))


def test_registers_of_different_widths_cannot_be_joined():
    wiring = Wiring(3)
    h = wiring.dense(0, 4)
    for join in (wiring.mix, wiring.difference):
        with pytest.raises(ValueError, match="registers of 3 and 4 units cannot be joined"):
            join(h, 0)
