"""Every problem with soft conditions has enough of them: the true solution meets all that are there, so that only counting
shows one that is missing."""

import dataclasses

import pytest
import torch

import pinn_lora.problems
from pinn_lora import catalog
from pinn_lora.domain import BOUNDARY
from pinn_lora.fields import Coordinates, Field, Recorder, components
from pinn_lora.jets import summed
from pinn_lora.problem import Condition, Problem


def soft_problems() -> list[Problem]:
    """Those whose conditions are in the loss: the soft form, or the problem as it is where its ansatz is the network itself."""
    found = []
    for name in catalog.names(pinn_lora.problems):
        cls = catalog.find(pinn_lora.problems, Problem, name)
        if "form" in {field.name for field in dataclasses.fields(cls)}:
            found.append(cls(form="soft"))
        elif cls.ansatz is Problem.ansatz:
            found.append(cls())
    return found


def orders(problem: Problem) -> list[dict[str, int]]:
    """The highest derivative of each field in each coordinate that the equation takes."""
    names, points = problem.domain.names, problem.domain.sample(3)
    asked: list[set] = [set() for _ in problem.fields]
    problem.residual(Coordinates.of(points, problem.domain), *(Recorder(points[:, 0], names, found) for found in asked))
    parts = [[part for index in found for part in summed(index)] for found in asked]
    return [{c: max((part.count(i) for part in found), default=0) for i, c in enumerate(names)} for found in parts]


def sees(problem: Problem, condition: Condition, operator, field: int, row: int, indices) -> bool:
    """Whether the condition's residual changes at every point as that derivative of the field does, on the first face alone
    where two are compared."""
    sets = condition.sample(problem.domain, 12, seed=1)
    generator, names = torch.Generator().manual_seed(0), problem.domain.names
    p = [Coordinates.of(points, problem.domain) for points in sets]
    shape = (len(problem.fields), len(indices), len(sets[0]))
    data = [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in sets]

    def run():
        states = [(q, *(Field(d, indices, names) for d in values)) for q, values in zip(p, data, strict=True)]
        return torch.stack(components(operator(*states) if condition.paired else operator(*states[0])))

    before = run()
    data[0] = data[0].clone()
    data[0][field, row] += 1.0
    return bool(((run() - before).abs() > 1e-6).any(dim=0).all())


def conditions_on(problem: Problem, field: int) -> set[tuple[str, str, int]]:
    """(coordinate, side, derivative) of all that is asked of a field: of the side "ends" where both are compared, and of no
    coordinate at points of data."""
    found, names = set(), problem.domain.names
    for _, operator, condition in problem.terms():
        if condition is None:
            continue
        indices = problem.needed(operator, paired=condition.paired)
        space = [c for c in names if c != "t"]
        faces = [
            f
            for c, s in condition.faces
            for f in ([(x, e) for x in space for e in "ab"] if c == BOUNDARY else [(c, s)])
        ]
        if condition.paired:
            faces = [(condition.faces[0][0], "ends")]
        for row, index in enumerate(indices):
            if sees(problem, condition, operator, field, row, indices):
                normal = {(c, side, len(index)) for c, side in faces if set(index) <= {names.index(c)}}
                found |= normal if faces else {("", "", len(index))}
    return found


@pytest.mark.parametrize("problem", soft_problems(), ids=lambda problem: type(problem).__name__)
def test_there_are_as_many_conditions_as_the_equations_order(problem):
    """Order q in a coordinate needs q conditions there of order below q: all at the first instant in time; on the
    two faces, or between them, in space. A pressure, of order one in space alone, needs one value anywhere."""
    for field, order in enumerate(orders(problem)):
        given = conditions_on(problem, field)
        if max(order.values()) == 1 and not order.get("t", 0):
            assert any(derivative == 0 for _, _, derivative in given), problem.fields[field]
            continue
        for coordinate, q in order.items():
            met = {(side, k) for c, side, k in given if c == coordinate and k < q}
            if coordinate == "t":
                met = {(side, k) for side, k in met if side == "lower"}
            assert len(met) >= q, f"{problem.fields[field]} in {coordinate}: {sorted(met)} for order {q}"


def test_all_problems_with_a_soft_form_are_here():
    assert {"Cavity", "KdV", "Kovasznay", "KuramotoSivashinsky", "PoissonLShape", "Schroedinger", "Wave"} <= {
        type(problem).__name__ for problem in soft_problems()
    }
