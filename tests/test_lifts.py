"""Every lift against dense least squares with the explicit Jacobian of (B, A) -> B A, in float64."""

import dataclasses
import itertools

import pytest
import torch
from lift_oracles import (
    CASES,
    LIFTS,
    SCALES,
    SHAPES,
    assert_equal,
    build,
    flat,
    metric_of,
    pair_and_gradients,
    plain,
    product_jacobian,
    velocity,
)
from torch.utils._python_dispatch import TorchDispatchMode

from pinn_lora import catalog, lifts
from pinn_lora.flow import tangent_energies
from pinn_lora.lifts import Lift, Pair, gauge_directions, relative_damping

MASSES = [(name, options) for name, options in CASES if build(name, options).has_mass]


# All lifts


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_lift_is_a_descent_direction_of_the_loss_and_of_the_product(name, options, shape, scale):
    """Along it the loss falls, in the factors and, to first order, in W: <G, s (dB A + B dA)> < 0."""
    for seed in range(5):
        pair, G, gB, gA = pair_and_gradients(shape, scale, seed=seed)
        lift = build(name, options)
        dB, dA = lift.velocity(pair, gB, gA, metric_of(lift, pair))
        assert (dB.shape, dA.shape) == (pair.B.shape, pair.A.shape)
        slope = (gB * dB).sum() + (gA * dA).sum()
        step = scale * (dB @ pair.A + pair.B @ dA)
        assert slope < 0
        torch.testing.assert_close((G * step).sum(), slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), MASSES, ids=str)
def test_the_velocity_at_a_pair_is_that_of_each_of_many_gradients(name, options, shape):
    pair, *_ = pair_and_gradients(shape)
    lift = build(name, options)
    metric, drawn = metric_of(lift, pair), [pair_and_gradients(shape, seed=k)[1] for k in range(6)]
    G = torch.stack(drawn).unflatten(0, (2, 3))
    dB, dA = lift.velocity_at(pair, metric)(G @ pair.A.T, pair.B.T @ G)
    for k, G in enumerate(drawn):
        each = lift.velocity(pair, G @ pair.A.T, pair.B.T @ G, metric)
        assert_equal(flat(dB[k // 3, k % 3], dA[k // 3, k % 3]), flat(*each), 1e-12)


@pytest.mark.parametrize("name", LIFTS)
def test_a_lift_is_zero_at_zero_gradient_and_linear_where_it_has_a_mass(name):
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    lift = build(name)
    assert not velocity(lift, pair, 0 * gB, 0 * gA).any()
    if lift.has_mass:
        assert_equal(velocity(lift, pair, -3 * gB, -3 * gA), -3 * velocity(lift, pair, gB, gA), 1e-13)


@pytest.mark.parametrize("name", LIFTS)
def test_a_lift_is_finite_at_zero_b(name):
    """The standard start; only B moves from there."""
    pair, _, gB, gA = pair_and_gradients((5, 4, 2), zero_b=True)
    lift = build(name)
    dB, dA = lift.velocity(pair, gB, gA, metric_of(lift, pair))
    assert dB.isfinite().all()
    assert dB.any()
    assert not dA.any()


@pytest.mark.parametrize("name", LIFTS)
def test_a_lift_leaves_its_arguments_alone_and_keeps_no_state(name):
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    before = [t.clone() for t in (pair.B, pair.A, gB, gA)]
    lift = build(name)
    first = velocity(lift, pair, gB, gA)
    other, _, hB, hA = pair_and_gradients((4, 6, 3), seed=5)
    velocity(lift, other, hB, hA)
    assert torch.equal(velocity(lift, pair, gB, gA), first)
    assert all(torch.equal(a, b) for a, b in zip(before, (pair.B, pair.A, gB, gA), strict=True))


@pytest.mark.parametrize("name", LIFTS)
def test_float32_factors_give_float32_velocities(name):
    """To 1e-3: the condition of these Gram matrices, below 1e3, times single precision."""
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    single = velocity(build(name), Pair(pair.B.float(), pair.A.float(), 1.0), gB.float(), gA.float())
    assert single.dtype == torch.float32
    assert_equal(single.double(), velocity(build(name), pair, gB, gA), 1e-3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_product_step_does_not_depend_on_the_scale(name, options, shape):
    """Where a lift says so; else it grows with s^2."""
    steps = {}
    for scale in SCALES:
        pair, _, gB, gA = pair_and_gradients(shape, scale)
        lift = build(name, options)
        dB, dA = lift.velocity(pair, gB, gA, metric_of(lift, pair))
        steps[scale] = scale * (dB @ pair.A + pair.B @ dA)
    for scale in SCALES:
        assert_equal(steps[scale], steps[1.0] * (1.0 if lift.full_units else scale**2))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_rotation_invariant_is_said_exactly_where_it_is_so(name, options, shape, scale):
    """(B R, R^T A) with R^T R = I: the same B A, with S and K turned. For r = 1 a rotation is a sign, which all lifts bear."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    R = torch.randn(shape[2], shape[2], generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    R = torch.linalg.qr(R).Q
    other = Pair(pair.B @ R, R.T @ pair.A, scale)
    lift = build(name, options)
    metric = metric_of(lift, pair)
    dB, dA = lift.velocity(pair, gB, gA, metric)
    hB, hA = lift.velocity(other, scale * G @ other.A.T, scale * other.B.T @ G, metric)
    before, after = dB @ pair.A + pair.B @ dA, hB @ other.A + other.B @ hA
    assert bool((after - before).norm() <= 1e-10 * before.norm()) == (lift.rotation_invariant or shape[2] == 1)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return found


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_no_m_x_n_matrix_is_formed(name, options):
    """Nothing a velocity makes is larger than a factor; the energies that a metric learns from, than two of them."""
    pair, _, gB, gA = pair_and_gradients((90, 110, 3))
    lift = build(name, options)
    metric = metric_of(lift, pair)
    with Largest() as largest:
        lift.velocity(pair, gB, gA, metric)
    assert 0 < largest.numel <= 110 * 3
    with Largest() as largest:
        tangent_energies(pair, gB, gA)
    assert largest.numel <= 2 * 110 * 3


# Masses


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), MASSES, ids=str)
def test_the_mass_is_symmetric_positive_and_inverts_the_velocity(name, options, shape, scale):
    pair, _, gB, gA = pair_and_gradients(shape, scale)
    lift = build(name, options)
    M = lift.mass(pair, metric_of(lift, pair)).matrix
    assert M.dtype == torch.float64
    assert torch.equal(M, M.T)
    values = torch.linalg.eigvalsh(M)
    singular = name == "balanced" and options.get("eps") == 0.0  # J^T J alone: semidefinite, minimum norm is meant
    assert values[0] > (-1e-12 * values[-1] if singular else 0)
    assert_equal(M @ velocity(lift, pair, gB, gA), -flat(gB, gA))
    if not singular:
        # a condition of up to 1e9 at eps = 1e-8 costs as many digits of a solve with M, not of the closed form
        digits = 1e-10 if values[-1] / values[0] < 1e5 else 1e-5
        assert_equal(velocity(lift, pair, gB, gA), -torch.linalg.solve(M, flat(gB, gA)), digits)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), MASSES, ids=str)
def test_keeps_gauge_is_said_exactly_where_it_is_so(name, options, shape, scale):
    pair, *_ = pair_and_gradients(shape, scale)
    lift, N = build(name, options), gauge_directions(pair)
    mass = lift.mass(pair, metric_of(lift, pair))
    image = mass.matrix @ N
    multiple = (N * image).sum() / N.square().sum()
    kept = (image - multiple * N).norm() <= 1e-10 * mass.matrix.norm() * N.norm()
    assert bool(kept) == mass.keeps_gauge


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_masses_name_is_identity_exactly_where_it_is_that(name, options):
    """And none where there is no mass; two lifts of one name would have one mass."""
    pair, *_ = pair_and_gradients(SHAPES[0], 1.0)
    lift = build(name, options)
    assert (lift.mass_name is None) == (not lift.has_mass)
    if lift.has_mass:
        matrix = lift.mass(pair, metric_of(lift, pair)).matrix
        assert (lift.mass_name == "identity") == torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype))
        assert lift.mass_name == name or name == "chain_rule"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gauge_directions_are_all_that_leaves_the_product_as_it_is(shape):
    pair, _G, gB, gA = pair_and_gradients(shape)
    N, J = gauge_directions(pair), product_jacobian(pair)
    r = shape[2]
    assert N.shape == (J.shape[1], r * r)
    assert (J @ N).norm() <= 1e-13 * J.norm() * N.norm()
    assert torch.linalg.matrix_rank(N) == r * r
    assert torch.linalg.matrix_rank(J) == J.shape[1] - r * r
    assert (N.T @ flat(gB, gA)).norm() <= 1e-13 * N.norm() * flat(gB, gA).norm()
    X = torch.randn(r, r, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(N @ X.reshape(-1), flat(-pair.B @ X, X @ pair.A), rtol=0, atol=1e-14)


def test_a_lift_without_a_mass_says_so():
    class Massless(Lift):
        def velocity(self, pair, g_B, g_A, metric):
            return -g_B, -g_A

    pair, *_ = pair_and_gradients((3, 3, 1))
    assert not Massless().has_mass
    with pytest.raises(NotImplementedError, match="Massless has no mass"):
        Massless().mass(pair, plain(pair))


def test_relative_damping_is_in_the_units_of_the_factors():
    pair, *_ = pair_and_gradients((5, 4, 2), 8.0)
    expected = 0.01 * (torch.trace(pair.S) + torch.trace(pair.K)) / 4
    torch.testing.assert_close(relative_damping(pair, 0.01), expected, rtol=1e-14, atol=0)
    assert relative_damping(pair, 0.0) == 0


@pytest.mark.parametrize(
    ("name", "options", "ratio"),
    [
        ("chain_rule", {}, 1.0),
        ("chain_rule", {"ratio": 16.0}, 16.0),
        ("balanced", {"eps": 0.3}, 1.0),
        ("lora_pro", {"eps": 0.0}, 1.0),
    ],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_a_lift_says_it_conserves_has_no_derivative(shape, name, options, ratio):
    """d/dt (B^T B / ratio - A A^T) = 0, off the balanced manifold too."""
    pair, _, gB, gA = pair_and_gradients(shape, 0.3)
    lift = build(name, options)
    assert "B^T B" in lift.conserves
    dB, dA = lift.velocity(pair, gB, gA, plain(pair))
    rate = pair.B.T @ dB / ratio - dA @ pair.A.T
    size = pair.B.norm() * dB.norm() / ratio + pair.A.norm() * dA.norm()
    assert (rate + rate.T).norm() <= 1e-9 * size


# block_diagonal: ScaledGD


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("eps", [0.0, 1e-4, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_diagonal_is_damped_least_squares_in_each_factor_alone(shape, eps, scale):
    """The two diagonal blocks of J^T J: each factor's own best step with the other held fixed."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    J, lam, size = product_jacobian(pair), relative_damping(pair, eps), pair.B.numel()
    parts = []
    for columns in (J[:, :size], J[:, size:]):
        stacked = scale * torch.cat([columns, lam.sqrt() * torch.eye(columns.shape[1], dtype=torch.float64)])
        target = -flat(G, torch.zeros(columns.shape[1], dtype=torch.float64))
        parts.append(torch.linalg.lstsq(stacked, target[:, None]).solution[:, 0])
    assert_equal(velocity(build("block_diagonal", {"eps": eps}), pair, gB, gA), torch.cat(parts))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_diagonal_counts_the_common_part_twice(shape):
    pair, G, gB, gA = pair_and_gradients(shape)
    dB, dA = build("block_diagonal", {"eps": 0.0}).velocity(pair, gB, gA, plain(pair))
    P_B, P_A = pair.B @ torch.linalg.pinv(pair.B), torch.linalg.pinv(pair.A) @ pair.A
    assert_equal(dB @ pair.A + pair.B @ dA, -(P_B @ G + G @ P_A))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("side", ["B", "A"])
@pytest.mark.parametrize("eps", [0.0, 1e-4, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_factor_is_damped_least_squares_in_its_factor_and_the_other_stays(shape, eps, side, scale):
    """The block of J of the factor that moves; zeros for the other."""
    pair, G, gB, gA = pair_and_gradients(shape, scale)
    J, lam, size = product_jacobian(pair), relative_damping(pair, eps), pair.B.numel()
    columns = J[:, :size] if side == "B" else J[:, size:]
    stacked = scale * torch.cat([columns, lam.sqrt() * torch.eye(columns.shape[1], dtype=torch.float64)])
    target = -flat(G, torch.zeros(columns.shape[1], dtype=torch.float64))
    moving = torch.linalg.lstsq(stacked, target[:, None]).solution[:, 0]
    zeros = torch.zeros(J.shape[1] - columns.shape[1], dtype=torch.float64)
    expected = torch.cat([moving, zeros] if side == "B" else [zeros, moving])
    assert_equal(velocity(build("one_factor", {"side": side, "eps": eps}), pair, gB, gA), expected)


# chain_rule: plain LoRA


@pytest.mark.parametrize("ratio", [1.0, 16.0, 3.0])
def test_chain_rule_is_the_gradient_with_its_ratio(ratio):
    pair, G, gB, gA = pair_and_gradients((5, 4, 2), 0.5)
    gradient = 0.5 * product_jacobian(pair).T @ G.reshape(-1)
    rates = flat(torch.full_like(pair.B, ratio), torch.ones_like(pair.A))
    assert_equal(velocity(build("chain_rule", {"ratio": ratio}), pair, gB, gA), -rates * gradient, 1e-13)
    mass = build("chain_rule", {"ratio": ratio}).mass(pair, plain(pair)).matrix
    torch.testing.assert_close(mass, torch.diag(1.0 / rates), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("balanced", {"eps": -1e-4}, "balanced: eps is -0.0001; it must be at least 0"),
        ("balanced", {"eps": float("nan")}, "balanced: eps is nan"),
        ("block_diagonal", {"eps": -1.0}, "block_diagonal: eps is -1.0; it must be at least 0"),
        ("chain_rule", {"ratio": 0.0}, "chain_rule: ratio is 0.0; it must be above 0 and finite"),
        ("chain_rule", {"ratio": float("nan")}, "chain_rule: ratio is nan"),
    ],
)
def test_bad_options_give_one_clear_sentence(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, options)


def test_every_lift_differs_from_every_other():
    """With damping that is felt: without it some are equal, as their own tests say."""
    pair, _, gB, gA = pair_and_gradients((5, 4, 2))
    found = []
    for name in LIFTS:
        damped = "eps" in {field.name for field in dataclasses.fields(catalog.find(lifts, Lift, name))}
        found.append(velocity(build(name, {"eps": 0.5} if damped else {}), pair, gB, gA))
    for a, b in itertools.combinations(found, 2):
        assert (a - b).norm() > 1e-3 * a.norm()
