"""Every start: shapes, type, that its generator alone decides it, and what each promises."""

import math

import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import catalog, initializers
from pinn_lora.initializers import Initializer, Probe, Site
from pinn_lora.lora import Blocks
from pinn_lora.objective import probe
from pinn_lora.points import first_points

STARTS = catalog.names(initializers)
SHAPES = [(6, 4), (4, 6), (5, 5), (1, 7)]


def probe_of(weight, seed=4) -> Probe:
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(40, *weight.shape, generator=generator, dtype=torch.float64)
    J = J * torch.linspace(0.2, 2.0, weight.shape[1]).double()
    return Probe(2.0 * torch.einsum("i,ikj->kj", torch.linspace(-1.0, 1.0, 40).double(), J), J)


def start(name, weight, rank, seed=0, scale=1.0, probe=None, **options):
    rule = catalog.build(initializers, Initializer, {"name": name, **options})
    probe = probe or probe_of(weight)
    return rule.factors(
        Site(weight, rank, scale, torch.Generator().manual_seed(seed), probe if rule.needs_probe else None)
    )


def largest_rank(name, shape) -> int:
    return min(shape) // 2 if name == "lora_ga" else min(shape)


def weight(m: int, n: int) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", STARTS)
def test_shapes_up_to_the_full_rank(name, shape):
    factor = catalog.find(initializers, Initializer, name).rank_factor
    for rank in range(factor, largest_rank(name, shape) + 1, factor):
        B, A = start(name, weight(*shape), rank)
        assert (B.shape, A.shape) == ((shape[0], rank), (rank, shape[1]))
        assert B.dtype == A.dtype == torch.float64
        assert B.isfinite().all()
        assert A.isfinite().all()
        assert max(torch.linalg.matrix_rank(part) for part in (A, B)) == rank / factor  # it learns along r directions


@pytest.mark.parametrize("name", STARTS)
def test_the_generator_decides_and_nothing_else_moves(name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    W = weight(6, 5)
    before = W.clone()
    first, again = (start(name, W, 2, seed=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(W, before)


def test_zero_b_is_kaimings():
    """A uniform in +-1/sqrt(n): variance 1/(3 n), within 3 % for 40,000 numbers."""
    B, A = start("zero_b", weight(6, 400), 5)
    assert not B.any()
    assert A.abs().max() <= 1 / math.sqrt(400)
    large = torch.cat([start("zero_b", weight(1, 400), 1, seed=s)[1] for s in range(100)])
    assert large.var().item() == pytest.approx(1 / 1200, rel=0.03)
    assert abs(large.mean().item()) < 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1 / math.sqrt(3.0), 0.1, 2.0])
def test_balanced_is_on_the_balanced_manifold(shape, size):
    rank = min(shape)
    B, A = start("balanced", weight(*shape), rank, size=size)
    expected = size**2 * torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(B.T @ B, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(A @ A.T, expected, rtol=0, atol=1e-14)


def test_balanced_by_default_has_the_norm_of_kaimings_start():
    """E ||A||_F^2 = r n / (3 n) = r / 3 for both."""
    _, A = start("balanced", weight(30, 20), 4)
    assert A.square().sum().item() == pytest.approx(4 / 3, rel=1e-12)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_balanced_refuses_a_size_that_is_none(size):
    with pytest.raises(ValueError, match=f"balanced: size is {size}; it must be above 0 and finite"):
        start("balanced", weight(3, 3), 1, size=size)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_od_lora_is_balanced_beside_its_bases(shape):
    """B' = [Q_B, c Q_B], A' = [c Q_A^T; Q_A^T]: the moving halves have balanced's Gram matrices, the others are their bases."""
    rank, c = min(shape) // 2, 0.3
    B, A = start("od_lora", weight(*shape), 2 * rank, size=c)
    eye = torch.eye(rank, dtype=torch.float64)
    for Q, moving in ((B[:, :rank], B[:, rank:]), (A[rank:].T, A[:rank].T)):
        torch.testing.assert_close(Q.T @ Q, eye, rtol=0, atol=1e-14)
        torch.testing.assert_close(moving.T @ moving, c**2 * eye, rtol=0, atol=1e-14)
        torch.testing.assert_close(Q.T @ moving, c * eye, rtol=0, atol=1e-14)
    with pytest.raises(
        ValueError, match="the start od_lora sets halves beside each other, so its rank must be even; it is 3"
    ):
        start("od_lora", weight(4, 4), 3)


@pytest.mark.parametrize("m", [3, 7])
def test_zero_a_is_zero_bs_mirror(m):
    """B uniform in +-1/sqrt(m): variance 1/(3 m), within 3 % for 30,000 numbers, and its bound is reached to 1 %."""
    B, A = start("zero_a", weight(m, 4), 10_000)
    assert not A.any()
    assert B.var().item() == pytest.approx(1 / (3 * m), rel=0.03)
    assert B.abs().max().item() == pytest.approx(1 / math.sqrt(m), rel=0.01)
    assert B.abs().max() <= 1 / math.sqrt(m)


def test_orthogonal_is_zero_b_with_orthonormal_rows():
    B, A = start("orthogonal", weight(5, 7), 3, size=0.5)
    assert not B.any()
    torch.testing.assert_close(A @ A.T, 0.25 * torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_pissa_is_the_best_part_of_the_weight(scale):
    """W0 - s B A has the singular values that are left, and the factors are balanced."""
    W = weight(6, 4)
    B, A = start("pissa", W, 2, scale=scale)
    left = torch.linalg.svdvals(W - scale * B @ A)
    torch.testing.assert_close(left[:2], torch.linalg.svdvals(W)[2:], rtol=1e-12, atol=0)
    assert left[2:].max() < 1e-13
    torch.testing.assert_close(B.T @ B, A @ A.T, rtol=0, atol=1e-13)


def test_lora_ga_makes_the_first_step_the_gradients():
    """dB A + B dA of plain LoRA is -c^2 times the best part of G of rank 2 r; c^2 = m^1/2 / gamma."""
    W = weight(6, 5)
    G = probe_of(W).gradient
    B, A = start("lora_ga", W, 2, gamma=4.0)
    U, sigma, V = torch.linalg.svd(G, full_matrices=False)
    expected = 6**0.5 / 4.0 * (U[:, :4] * sigma[:4]) @ V[:4]
    torch.testing.assert_close(G @ A.T @ A + B @ B.T @ G, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(B.T @ B, A @ A.T, rtol=0, atol=1e-13)
    assert (B.T @ G @ A.T).norm() < 1e-12 * G.norm()
    with pytest.raises(
        ValueError, match="lora_ga takes 2 r = 6 singular vectors and a 6 x 5 layer has 5; choose a lower"
    ):
        start("lora_ga", W, 3)


def test_lora_one_is_the_best_part_of_a_gradient_step():
    W = weight(6, 5)
    G = probe_of(W).gradient
    B, A = start("lora_one", W, 2, gamma=8.0)
    U, sigma, V = torch.linalg.svd(-G, full_matrices=False)
    torch.testing.assert_close(B @ A, (U[:, :2] * sigma[:2]) @ V[:2] / (8.0 * sigma[0]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(B.T @ B, A @ A.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("moves", [True, False], ids=["residuals move", "nothing moves"])
@pytest.mark.parametrize("name", ["lora_one", "lora_da"])
def test_where_the_gradient_is_zero_b_is_zero_and_a_has_full_rank(name, moves):
    """So that a lift can begin there."""
    W = weight(6, 5)
    J = probe_of(W).jacobian
    B, A = start(name, W, 2, probe=Probe(torch.zeros(6, 5).double(), J if moves else torch.zeros_like(J)))
    assert not B.any()
    assert A.isfinite().all() and torch.linalg.matrix_rank(A) == 2


def test_the_published_constants_are_the_defaults():
    """Of LoRA-GA, arXiv 2407.05000, and LoRA-One, arXiv 2502.01235, from their code; the starts' scales follow from them."""
    assert catalog.find(initializers, Initializer, "lora_ga")().gamma == 16.0
    assert catalog.find(initializers, Initializer, "lora_one")().gamma == 128.0
    W = weight(6, 5)
    B, _ = start("lora_ga", W, 2)
    torch.testing.assert_close(B.T @ B, 6**0.5 / 16.0 * torch.eye(2).double(), rtol=0, atol=1e-13)
    B, A = start("lora_one", W, 2)
    assert torch.linalg.matrix_norm(B @ A, 2).item() == pytest.approx(1 / 128.0, rel=1e-12)


def test_lora_da_by_its_matrices_written_out():
    """Omega by loops over the probe's rows; A spans its lowest eigenvectors, B is the step's part there."""
    W, r, gamma = weight(6, 5), 2, 9.0
    found = probe_of(W)
    Z, C = torch.zeros(5, 5).double(), torch.zeros(6).double()
    for J in found.jacobian:
        Z += J.T @ J / 6
        C += torch.stack([row @ row for row in J]) / 5
    Z += 1e-4 * torch.trace(Z) / 5 * torch.eye(5).double()
    C += 1e-4 * C.mean()
    step = -torch.diag(1 / C) @ found.gradient @ torch.linalg.inv(Z)
    sigma = torch.linalg.svdvals(step)[0]
    D = step / sigma
    omega = -D.T @ D + 0.03 * (1 / C).sum() / (40 * sigma**2) * torch.linalg.inv(Z)
    vectors = torch.linalg.eigh(omega).eigenvectors[:, :r]
    B, A = start("lora_da", W, r, gamma=gamma)
    torch.testing.assert_close(gamma * A.T @ A, vectors @ vectors.T, rtol=0, atol=1e-9)  # to the signs of the vectors
    torch.testing.assert_close(gamma * B @ A, D @ vectors @ vectors.T, rtol=1e-8, atol=1e-9)


def test_the_probe_is_the_gradient_and_jacobian_of_the_loss():
    """Against the engines on all weights, for a soft problem with weights."""
    problem, weights = Burgers(nu=0.1, form="soft"), {"initial": 5.0}
    network = pl.MLP(problem.domain, width=5, depth=3, periodic=problem.periodic, seed=3).double()
    points = first_points(problem, 32, seed=1)
    found = probe(problem, network, points, targets="all", weights=weights)
    whole = pl.Objective(problem, network, Blocks(network), points, weights)
    theta = whole.blocks.read(network)
    (_, g), (_, J) = whole.gradient(theta), whole.jacobian(theta)
    assert sorted(found) == [f"layers.{i}" for i in range(4)]
    for block in whole.blocks.blocks:
        if block.name.endswith(".weight"):
            part = found[block.name.removesuffix(".weight")]
            torch.testing.assert_close(part.gradient.reshape(-1), g[block.slice], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(part.jacobian.flatten(1), J[:, block.slice], rtol=1e-10, atol=1e-12)
    assert sorted(probe(problem, network, points)) == ["layers.1", "layers.2"]


@pytest.mark.parametrize("name", STARTS)
def test_every_start_finetunes_and_begins_as_the_base(name):
    problem = Burgers(nu=0.3)
    base = pl.pretrain(Burgers(nu=0.2), width=8, depth=3, max_steps=10, points=200)
    tuned = pl.finetune(base, problem, method="lora-lm", rank=2, initializer=name, max_steps=8, points=200)
    zero_shot = pl.Solution(problem, base.network).relative_l2()
    assert tuned.history[0].relative_l2 == pytest.approx(zero_shot, rel=1e-10)
    assert tuned.history[-1].loss < 0.5 * tuned.history[0].loss


def test_a_start_without_its_probe_says_what_is_missing():
    network = pl.MLP(Burgers().domain, width=5, depth=3)
    with pytest.raises(ValueError, match="the start 'lora_one' needs the loss's gradient: finetune gives it"):
        pl.adapt(network, rank=2, initializer="lora_one")


@pytest.mark.parametrize("name", ["orthogonal", "od_lora", "lora_ga", "lora_one", "lora_da"])
def test_options_that_are_no_positive_number_are_refused(name):
    option = "gamma" if name.startswith("lora") else "size"
    with pytest.raises(ValueError, match=f"{name}: {option} is -1.0; it must be above 0 and finite"):
        catalog.build(initializers, Initializer, {"name": name, option: -1.0})
