"""LoRA-Pro's lift: the product step is balanced's in every gauge, and each gauge is the nearest in its own sense."""

import pytest
import torch
from lift_oracles import (
    SCALES,
    SHAPES,
    assert_equal,
    build,
    flat,
    pair_and_gradients,
    plain,
    product_jacobian,
    velocity,
)

from pinn_lora.lifts import Pair, gauge_directions

GAUGES = ["zero", "symmetry", "sylvester"]


def exact(gauge):
    return build("lora_pro", {"gauge": gauge, "eps": 0.0})


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_step_is_the_best_one_in_every_gauge(shape, scale, gauge):
    """The least-squares step s J v of -G by the explicit Jacobian: what balanced makes."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    J = product_jacobian(pair)
    expected = -J @ torch.linalg.pinv(J, rtol=1e-12) @ G.reshape(-1)
    assert_equal(scale * J @ velocity(exact(gauge), pair, gB, gA), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sylvester_is_balanced_without_damping(shape):
    """To 1e-9: two routes through Gram matrices whose condition is up to 1e4."""
    pair, _, gB, gA = pair_and_gradients(shape, 0.3)
    assert_equal(
        velocity(exact("sylvester"), pair, gB, gA), velocity(build("balanced", {"eps": 0.0}), pair, gB, gA), 1e-9
    )


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_gauge_is_the_nearest_in_its_own_sense(shape, gauge):
    """Least squares over X by brute force: sylvester in (dB, dA) + (g_B, g_A), symmetry in dB A - B dA, zero is X = 0."""
    pair, _, gB, gA = pair_and_gradients(shape)
    found, N = velocity(exact(gauge), pair, gB, gA), gauge_directions(pair)
    start = velocity(exact("zero"), pair, gB, gA)
    size = pair.B.numel()
    swap = torch.cat([torch.ones(size), -torch.ones(len(found) - size)]).double()
    if gauge == "sylvester":
        target, columns = start + flat(gB, gA), N
    elif gauge == "symmetry":
        difference = product_jacobian(pair) * swap
        target, columns = difference @ start, difference @ N
    else:
        P_B = pair.B @ torch.linalg.pinv(pair.B)
        dB = -(gB - P_B @ gB) @ torch.linalg.inv(pair.K)
        assert_equal(found, flat(dB, -torch.linalg.solve(pair.S, gA)))
        return
    X = torch.linalg.lstsq(columns, -target[:, None], driver="gelsd").solution[:, 0]
    assert_equal(found, start + N @ X, 1e-9)


def test_the_damped_velocity_tends_to_the_exact_one():
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    for gauge in GAUGES:
        near = velocity(build("lora_pro", {"gauge": gauge, "eps": 1e-9}), pair, gB, gA)
        assert_equal(near, velocity(exact(gauge), pair, gB, gA), 1e-6)


@pytest.mark.parametrize(("gauge", "eps"), [("sylvester", 1e-4), ("sylvester", 0.0), ("zero", 0.0)])
def test_a_gauge_without_a_mass_says_what_to_take(gauge, eps):
    lift = build("lora_pro", {"gauge": gauge, "eps": eps})
    pair = Pair(torch.ones(3, 1), torch.ones(1, 3), 1.0)
    assert not lift.has_mass
    with pytest.raises(NotImplementedError, match="take balanced"):
        lift.mass(pair, plain(pair))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"no gauge of lora_pro 'sylvestr'; did you mean 'sylvester'\?"):
        build("lora_pro", {"gauge": "sylvestr"})
    with pytest.raises(ValueError, match=r"lora_pro: eps is -1.0; it must be at least 0"):
        build("lora_pro", {"eps": -1.0})
