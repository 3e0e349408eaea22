"""diag(exp s) V: the same layer at the start, its gradients by the chain rule, and W itself once it is plain."""

import torch
from torch import nn

from pinn_lora.factorised import FactorisedLinear


def layers() -> tuple[nn.Linear, FactorisedLinear]:
    generator = torch.Generator().manual_seed(1)
    base = nn.Linear(4, 3, dtype=torch.float64)
    with torch.no_grad():
        for value in base.parameters():
            value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return base, FactorisedLinear(base, generator)


def test_it_begins_as_the_layer_that_it_is_made_of():
    base, layer = layers()
    x = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64).view(5, 4)
    torch.testing.assert_close(layer(x), base(x), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(layer.weight, base.weight, rtol=1e-15, atol=1e-15)
    assert [name for name, _ in layer.named_parameters()] == ["V", "s", "bias"]
    assert layer.s.abs().min() > 0.5  # of mean 1 and deviation 0.1


def test_gradients_in_s_and_v_follow_from_those_in_w():
    """dL/dV = diag(exp s) G and dL/ds_i = sum_j G_ij W_ij, which the jets' engine uses."""
    _, layer = layers()
    G = torch.linspace(-2.0, 3.0, 12, dtype=torch.float64).view(3, 4)
    (layer.weight * G).sum().backward()
    torch.testing.assert_close(layer.V.grad, layer.s.detach().exp()[:, None] * G, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(layer.s.grad, (G * layer.weight.detach()).sum(1), rtol=1e-14, atol=1e-14)


def test_plain_is_w_itself_and_shares_nothing():
    _, layer = layers()
    plain = layer.plain()
    assert type(plain) is nn.Linear
    assert torch.equal(plain.weight, layer.weight)
    with torch.no_grad():
        plain.bias += 1.0
        plain.weight += 1.0
    assert not torch.equal(plain.bias, layer.bias)
    assert not torch.equal(plain.weight, layer.weight)
    assert all(p.requires_grad for p in plain.parameters())
