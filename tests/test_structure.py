"""Ranks and layers: against brute force over all choices, and end to end on Burgers."""

import copy
import itertools
import math
import re

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from small_objective import objective_of

import pinn_lora as pl
from pinn_lora.lora import Blocks, LoRALinear, singular_factors
from pinn_lora.objective import Objective
from pinn_lora.points import first_points
from pinn_lora.structure import _expansion, _gated, greedy


@pytest.fixture(scope="module")
def base():
    return pl.pretrain(Burgers(nu=0.2 / math.pi), width=8, depth=3, max_steps=60, points=500)


@pytest.fixture(scope="module")
def target():
    return Burgers(nu=0.1 / math.pi)


@pytest.fixture(scope="module", params=["zero_b", "balanced"])
def tuned(base, target, request):
    return pl.finetune(base, target, rank=3, initializer=request.param, max_steps=25, points=400, scale=0.7)


def layers(solution):
    return {name: m for name, m in solution.network.named_modules() if isinstance(m, LoRALinear)}


def test_singular_factors_are_those_of_what_the_adapter_adds(tuned):
    for layer in layers(tuned).values():
        change = layer.effective_weight(layer.B, layer.A).detach() - layer.weight
        U, sigma, V = singular_factors(layer)
        assert (U * sigma @ V - change).norm() < 1e-12 * change.norm()
        expected = torch.linalg.svdvals(change)[: len(sigma)]
        assert (sigma - expected).norm() < 1e-12 * expected.norm()
        assert (U.T @ U - torch.eye(len(sigma)).double()).norm() < 1e-12


def test_gradient_and_hessian_are_those_of_the_loss_in_the_singular_values(tuned):
    """By differences of the loss itself, whole networks built anew."""
    points = first_points(tuned.problem, 200, seed=0)
    directions = {name: singular_factors(layer) for name, layer in layers(tuned).items()}
    sigma, g, H = _expansion(tuned, directions, points, {})
    places = [(name, k) for name, (_, s, _) in directions.items() for k in range(len(s))]

    def loss(*changes: tuple[int, float]) -> float:
        network = pl.merge(tuned.network)
        for index, amount in changes:
            name, k = places[index]
            U, _, V = directions[name]
            network.get_submodule(name).weight.data += amount * torch.outer(U[:, k], V[k])
        objective = Objective(tuned.problem, network, Blocks(network), points)
        return objective.value(objective.blocks.read(network))

    e = 1e-4
    assert len(sigma) == len(places)
    for i in range(len(sigma)):
        slope = (loss((i, e)) - loss((i, -e))) / (2 * e)
        assert slope == pytest.approx(float(g[i]), abs=1e-4 * float(g.abs().max()) + 1e-6 * float(H.abs().max()))
    for i, j in ((0, 1), (1, 4), (2, 2)):
        second = (loss((i, e), (j, e)) - loss((i, e), (j, -e)) - loss((i, -e), (j, e)) + loss((i, -e), (j, -e))) / (
            4 * e**2
        )
        assert second == pytest.approx(float(H[i, j]), abs=1e-3 * float(H.abs().max()))


def modelled(sigma, g, H, dropped) -> float:
    """The increase of the loss by the model that greedy sees."""
    C = sigma[:, None] * H * sigma
    off = C - C.diagonal().diag()
    C = C.diagonal().diag() + off.clamp_min(0.0)
    x = torch.zeros(len(sigma)).double()
    x[list(dropped)] = 1.0
    return float(-(g * sigma) @ x + 0.5 * x @ C @ x)


def random_model(seed: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular values, and gradient and matrix of a quadratic in their changes."""
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
    J = torch.randn(12, size, generator=generator, dtype=torch.float64)
    return sigma, 0.1 * torch.randn(size, generator=generator, dtype=torch.float64), J.T @ J


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_near_the_best_of_all_choices(seed):
    """Of a monotone submodular gain greedy reaches 1 - 1/e; here it is closer."""
    sigma, g, H = random_model(seed, size := 8)
    everything = modelled(sigma, g, H, range(size))
    for budget in (1, 2, 4, 7):
        kept = greedy(sigma, g, H, budget)
        assert len(set(kept)) == budget
        gains = {
            choice: everything - modelled(sigma, g, H, set(range(size)) - set(choice))
            for choice in itertools.combinations(range(size), budget)
        }
        assert gains[tuple(sorted(kept))] >= 0.9 * max(gains.values())


@pytest.mark.parametrize("seed", range(5))
def test_greedy_takes_the_best_of_what_is_left_each_time(seed):
    """In that order: what lowers the modelled loss most when it comes back to those that are there already."""
    sigma, g, H = random_model(seed, size := 8)
    expected: list[int] = []
    for _ in range(size):
        dropped = set(range(size)) - set(expected)
        expected.append(min(dropped, key=lambda k: modelled(sigma, g, H, dropped - {k})))
    for budget in (1, 4, size):
        assert greedy(sigma, g, H, budget) == expected[:budget]


def test_ranks_fit_the_budget_and_a_new_run_takes_them(tuned, base, target):
    total = sum(len(singular_factors(layer)[1]) for layer in layers(tuned).values())
    assert sum(pl.select_ranks(tuned, total, points=300).values()) == total
    ranks = pl.select_ranks(tuned, 4, points=300)
    assert sum(ranks.values()) == 4
    assert set(ranks) <= set(layers(tuned))
    again = pl.finetune(base, target, rank=ranks, max_steps=25, points=400)
    assert {name: layer.rank for name, layer in layers(again).items()} == ranks
    assert again.relative_l2() < 0.5 * again.compare_to_base()


def test_a_solution_with_ranks_of_its_own_is_saved_and_comes_back(base, target, tmp_path):
    ranks = {"layers.1": 1, "layers.2": 3}
    tuned = pl.finetune(base, target, rank=ranks, initializer="balanced", max_steps=5, points=200)
    again = pl.Solution.load(tuned.save(tmp_path / "adapter"), base=base)
    assert {name: layer.rank for name, layer in layers(again).items()} == ranks
    points = torch.rand(20, 2).double()
    assert torch.equal(again.predict(points), tuned.predict(points))


def test_layers_are_chosen_by_their_gated_change(base, target):
    options = {"rank": 2, "steps": 60, "points": 300}
    chosen = pl.select_layers(base, target, 2, **options)
    assert len(set(chosen)) == 2
    assert chosen == pl.select_layers(base, target, 2, **options), "same seed, same layers"
    everything = pl.select_layers(base, target, 4, **options)
    assert sorted(everything) == [f"layers.{i}" for i in range(4)]
    assert everything[:2] == chosen
    tuned = pl.finetune(base, target, targets=chosen, rank=1, max_steps=25, points=400)
    assert tuned.relative_l2() < tuned.compare_to_base()


@pytest.mark.parametrize("number", range(4))
def test_the_only_layer_that_changes_is_the_one_chosen(target, number):
    """Where a layer's weight is zero, and no layer has a bias, no other has a gradient: in a first step it moves alone."""
    network = pl.MLP(target.domain, width=5, depth=3, periodic=target.periodic, seed=1)
    with torch.no_grad():
        network.layers[number].weight.zero_()
    options = {"rank": 2, "steps": 1, "points": 100}
    assert pl.select_layers(pl.Solution(target, network), target, 1, **options) == [f"layers.{number}"]


def by_hand(objective, steps: int, h: float, *, gates_move: bool) -> dict[str, float]:
    """The sizes of the gated changes after Adam on factors and gates, both written out: dL/dB = sigma(z) g, dL/dA = g_A and
    dL/dz = sigma(z) (1 - sigma(z)) <g, B> with g the gradient at the gated B."""
    blocks, theta = objective.blocks, objective.blocks.read(objective.network)
    y = torch.cat([theta, theta.new_zeros(len(blocks.pairs))])
    m, v = torch.zeros_like(y), torch.zeros_like(y)

    def gated() -> torch.Tensor:
        found = y[: len(theta)].clone()
        for block, z in zip(blocks.pairs, y[len(theta) :], strict=True):
            block.split(found[block.slice])[0].mul_(1.0 / (1.0 + torch.exp(-z)))
        return found

    for t in range(1, steps + 1):
        g = torch.cat([objective.gradient(gated())[1], torch.zeros(len(blocks.pairs)).double()])
        for k, block in enumerate(blocks.pairs):
            gate = 1.0 / (1.0 + torch.exp(-y[len(theta) + k]))
            gB = block.split(g[block.slice])[0]
            if gates_move:
                g[len(theta) + k] = gate * (1.0 - gate) * (gB * block.split(y[block.slice])[0]).sum()
            gB.mul_(gate)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
        y = y - h * m / (1.0 - 0.9**t) / ((v / (1.0 - 0.999**t)).sqrt() + 1e-8)
    found = gated()
    pairs = {block.name: block.split(found[block.slice]) for block in blocks.pairs}
    return {name: float((B @ A).norm()) for name, (B, A) in pairs.items()}


def test_the_gates_that_are_trained_decide(base, target):
    """Here the layer that changes most with its gate is not the one that changes most without."""
    options = {"rank": 2, "steps": 60, "step_size": 0.1, "points": 200}
    network = pl.adapt(pl.merge(base.network), rank={f"layers.{i}": 1 if i == 3 else 2 for i in range(4)})
    objective = Objective(target, network, Blocks(network), first_points(target, 200, seed=0))
    gated, ungated = (by_hand(objective, 60, 0.1, gates_move=moves) for moves in (True, False))
    order = sorted(gated, key=gated.__getitem__, reverse=True)
    assert max(ungated, key=ungated.__getitem__) != order[0]
    assert pl.select_layers(base, target, 4, **options) == order


def test_a_gate_scales_its_layers_change_and_its_gradient_is_that_of_the_loss():
    """By central differences, which are good to about 1e-8 here, of the loss with every B scaled in place."""
    objective = objective_of(targets="all", rank=1)
    blocks, theta = objective.blocks, objective.blocks.read(objective.network).requires_grad_()
    gates = torch.linspace(-1.5, 1.0, len(blocks.pairs)).double().requires_grad_()

    def scaled(gates: torch.Tensor) -> torch.Tensor:
        found = theta.detach().clone()
        for block, gate in zip(blocks.pairs, gates, strict=True):
            block.split(found[block.slice])[0].mul_(1.0 / (1.0 + math.exp(-float(gate))))
        return found

    gated = _gated(blocks, theta, gates.sigmoid())
    torch.testing.assert_close(gated.detach(), scaled(gates.detach()), rtol=1e-14, atol=0)
    gated.backward(objective.gradient(gated.detach())[1])
    e = 1e-5
    for k, change in enumerate(e * torch.eye(len(gates)).double()):
        ends = [objective.value(scaled(gates.detach() + sign * change)) for sign in (1, -1)]
        assert float(gates.grad[k]) == pytest.approx((ends[0] - ends[1]) / (2 * e), rel=1e-6)


def test_bad_input_gets_one_sentence(base, target, tuned):
    with pytest.raises(ValueError, match="the budget is 0; it must be between 1 and"):
        pl.select_ranks(tuned, 0)
    with pytest.raises(ValueError, match="this solution has no adapters to choose ranks for"):
        pl.select_ranks(base, 2)
    with pytest.raises(ValueError, match="keep is 5; it must be between 1 and 4, the linear layers there are"):
        pl.select_layers(base, target, 5)
    for bad in (2.5, "3", True):
        with pytest.raises(ValueError, match=rf"^budget is {bad!r}; give a whole number$"):
            pl.select_ranks(tuned, bad)
    for name in ("keep", "rank", "steps"):
        for bad in (1.5, "1", True):
            with pytest.raises(ValueError, match=rf"^{name} is {bad!r}; give a whole number$"):
                pl.select_layers(base, target, **{"keep": 1, name: bad})
    for name, bad, range_ in (
        ("steps", 0, "a whole number, at least 1"),
        ("steps", -1, "a whole number, at least 1"),
        ("rank", 0, "a whole number, at least 1"),
        ("points", 0, "a whole number, at least 1"),
        ("step_size", 0.0, "above 0 and finite"),
    ):
        with pytest.raises(ValueError, match=rf"^{name} is {bad}; it must be {range_}$"):
            pl.select_layers(base, target, 1, **{name: bad})
    with pytest.raises(ValueError, match=r"^problem is 'burgers'; give a Problem, such as Burgers\(\)"):
        pl.select_layers(base, "burgers", 1)
    with pytest.raises(ValueError, match=r"^solution is of type str; give a Solution, as finetune returns it$"):
        pl.select_ranks("tuned", 1)
    with pytest.raises(ValueError, match="there is no linear layer 'layers"):
        pl.finetune(base, target, rank={"layers.9": 2})
    with pytest.raises(ValueError, match="rank 9 does not fit the 8 x 8 layer"):
        pl.finetune(base, target, rank={"layers.1": 9})


def test_nothing_is_chosen_where_nothing_moved_or_all_diverged(base, target, tuned):
    """Not the order of the layers, nor nan."""
    small = {"rank": 2, "points": 100}
    for step_size in (30.0, 1e300):
        said = rf"^the training of the gates diverged with the step size {re.escape(f'{step_size:g}')}; take a smaller one$"
        with pytest.raises(ValueError, match=said):
            pl.select_layers(base, target, 2, steps=2, step_size=step_size, **small)
    flat = pl.MLP(target.domain, width=5, depth=3, periodic=target.periodic)
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.zero_()
    with pytest.raises(ValueError, match=r"^no layer changed, so none is worth more than another"):
        pl.select_layers(pl.Solution(target, flat), target, 2, steps=2, **small)
    still = pl.Solution(target, pl.adapt(pl.merge(base.network), rank=2))
    with pytest.raises(
        ValueError, match=r"^this solution's adapters add nothing to the base: no direction is worth a place"
    ):
        pl.select_ranks(still, 2, points=100)
    for size, said in (
        (1e200, "^this solution's weights are not finite: it "),
        (1e100, "^the loss near this solution is "),
    ):
        far = pl.Solution(tuned.problem, copy.deepcopy(tuned.network))
        with torch.no_grad():
            for layer in layers(far).values():
                layer.B.mul_(size)
                layer.A.mul_(size)
        with pytest.raises(ValueError, match=said + ".*diverged; fine-tune with a smaller step_size$"):
            pl.select_ranks(far, 2, points=100)
