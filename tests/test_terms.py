"""What lies between a network's outputs and the loss, for every problem: against autograd, and as it is compiled."""

from dataclasses import dataclass

import pytest
import torch
from pinn_lora.problems.burgers import Burgers
from torch.fx.experimental.proxy_tensor import make_fx

import pinn_lora as pl
import pinn_lora.problems
from pinn_lora.catalog import find, names
from pinn_lora.identity import Identified, identified
from pinn_lora.jets import closure
from pinn_lora.lora import Blocks
from pinn_lora.places import ProblemError, place_of
from pinn_lora.points import first_points
from pinn_lora.problem import Problem
from pinn_lora.terms import PlacedTerm, Term, output_adjoint, squares_of

PROBLEMS = names(pinn_lora.problems)
TOLERANCE = 1e-12  # float64, relative to the largest entry: the same operations in another order


def placed(name: str, n: int = 7) -> tuple[PlacedTerm, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A problem's residual at n points, its points, some outputs' jets and weights of which one is zero."""
    problem = find(pinn_lora.problems, Problem, name)()
    indices = problem.needed(problem.residual, paired=False)
    points = problem.domain.sample(n, seed=3)
    generator = torch.Generator().manual_seed(5)
    outputs = torch.randn(len(indices), n, len(problem.fields), generator=generator, dtype=torch.float64)
    weights = torch.rand(n, generator=generator, dtype=torch.float64)
    weights[2] = 0.0
    term = Term("residual", problem.residual, 1.0, indices, False, place_of(problem.residual))
    return PlacedTerm.at(problem, term, [points]), points, outputs, weights


def known(problem: Problem) -> Identified:
    found = identified(problem)
    assert found is not None
    return found


@dataclass(frozen=True)
class Cut(Burgers):
    """Gives as many residuals as points, up to forty."""

    def residual(self, p, u):
        return super().residual(p, u)[:40]


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_a_shape_that_is_wrong_at_many_points_only_is_one_sentence(engine):
    problem = Cut()
    network = pl.MLP(problem.domain, width=3, depth=1, periodic=problem.periodic)
    blocks = Blocks(network)
    objective = pl.Objective(problem, network, blocks, first_points(problem, 60, seed=0), engine=engine)
    wrong = r"^.*test_terms\.py, line \d+: Cut: a residual of 60 points must have shape \(60,\), not \(40,\)$"
    with pytest.raises(ProblemError, match=wrong):
        objective.gradient(blocks.read(network))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", PROBLEMS)
def test_squares_and_their_adjoint_are_autograds(name):
    at, _, outputs, weights = placed(name)
    leaf = outputs.clone().requires_grad_()
    expected = sum((weights * r.square()).sum() for r in at.components(leaf))
    total, adjoint = at.squares(outputs, weights)
    close(total, expected.detach())
    close(adjoint, torch.autograd.grad(expected, leaf)[0])
    assert not total.requires_grad and not adjoint.requires_grad


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_compiled_gives_the_same_numbers_at_other_points(name):
    """Traced at some points and run at others: nothing of the points or the outputs is held in what is compiled."""
    at, points, outputs, weights = placed(name)
    function = squares_of(known(at.problem), "residual", at.term.indices, at.term.place)
    graph = make_fx(function)(outputs.flip(1), weights.flip(0), at.problem.domain.sample(len(points), seed=8))
    for found, expected in zip(graph(outputs, weights, points), at.squares(outputs, weights), strict=True):
        close(found, expected)


def test_equal_problems_share_what_is_compiled_and_others_do_not():
    burgers = find(pinn_lora.problems, Problem, "burgers")
    indices = closure([(0, 0), (1,)])
    made = [squares_of(known(burgers(nu=nu)), "residual", indices, "") for nu in (0.1, 0.1, 0.2)]
    assert made[0] is made[1] and made[0] is not made[2]


def test_outputs_that_no_component_sees_have_no_adjoint():
    outputs = torch.randn(4, 3, 1, dtype=torch.float64, requires_grad=True)
    found = output_adjoint([torch.ones(3)], outputs, [torch.ones(3)])
    assert torch.equal(found, torch.zeros_like(outputs))
