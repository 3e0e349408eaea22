"""Products with the Jacobian, J v, J^T u and J^T J v, against the Jacobian itself, for both engines."""

import dataclasses
from functools import partial

import pytest
import torch
from small_problems import PROBLEMS, objective, somewhere, trained
from test_engines import close

from pinn_lora.products import Linearization

KINDS = ["whole", "biases_output"]
CASES = [(problem, kind, "jets") for problem in PROBLEMS for kind in KINDS]
CASES += [("ansatz", "biases_output", "functional"), ("data", "whole", "functional")]


def case(problem, kind, engine, **options):
    network = trained(PROBLEMS[problem], kind, **options)
    found = objective(PROBLEMS[problem], network, engine)
    theta = somewhere(found.blocks, network)
    R, J = found.jacobian(theta)
    generator = torch.Generator().manual_seed(8)
    u, v = (torch.randn(n, generator=generator, dtype=torch.float64) for n in J.shape)
    return found, theta, R, J, u, v


@pytest.mark.parametrize(("problem", "kind", "engine"), CASES)
def test_products_are_those_of_the_jacobian(problem, kind, engine):
    """To 1e-10 of their size: two orders of the same sums."""
    found, theta, R, J, u, v = case(problem, kind, engine)
    tangent = found.linearize(theta, room=1.0)
    assert found.rows == len(R)
    close(tangent.residuals, R)
    close(tangent.forward(v), J @ v)
    close(tangent.adjoint(u), J.T @ u)
    close(tangent.normal(v), J.T @ (J @ v))
    close(found.pullback(theta, u), J.T @ u)
    Omega = torch.stack([v, v.flip(0)], dim=1)
    close(found.sketch(theta, Omega), 2.0 * J.T @ (J @ Omega))


@pytest.mark.parametrize("engine", ["jets", "functional"])
def test_what_does_not_fit_is_made_again_with_the_same_numbers(engine):
    found, theta, _, J, u, v = case("periodic" if engine == "jets" else "data", "biases_output", engine)
    whole = found.linearize(theta, room=1.0)
    bound = found.running.bind(theta)
    bytes_of_all = sum(found.running.products(bound, chunk).nbytes for chunk, _ in found.chunks)
    some = found.linearize(theta, room=0.999 * bytes_of_all / 2**30)
    none = found.linearize(theta, room=0.0)
    assert none.kept == 0 < some.kept < whole.kept == len(found.chunks)
    for tangent in (some, none):
        assert torch.equal(tangent.forward(v), whole.forward(v))
        assert torch.equal(tangent.adjoint(u), whole.adjoint(u))
    close(none.normal(v), J.T @ (J @ v))


def test_what_is_kept_is_made_once_and_what_is_not_once_a_product():
    found, theta, _, J, u, v = case("periodic", "biases_output", "jets")
    bound, made = found.running.bind(theta), []

    def make(i):
        made.append(i)
        return found.running.products(bound, found.chunks[i][0])

    count, weights = len(found.chunks), [weight for _, weight in found.chunks]
    parts = [found.running.products(bound, chunk).nbytes for chunk, _ in found.chunks]
    for kept in range(count + 1):
        made.clear()
        room = (sum(parts[:kept]) + 0.5 * min(parts)) / 2**30
        tangent = Linearization([partial(make, i) for i in range(count)], weights, found.size, room=room)
        assert tangent.kept == kept and made == list(range(count))
        for product, given, expected in (
            (tangent.forward, v, J @ v),
            (tangent.adjoint, u, J.T @ u),
            (tangent.normal, v, J.T @ (J @ v)),
        ):
            made.clear()
            close(product(given), expected)
            assert made == list(range(kept, count))


def test_single_precision_products_are_added_up_in_double():
    """To 1e-4: float32 jets through three layers."""
    found, theta, _, J, u, v = case("ansatz", "biases_output", "jets")
    single = dataclasses.replace(found, network=trained(PROBLEMS["ansatz"], "biases_output").float())
    tangent = single.linearize(theta.float(), room=1.0)
    for product, expected in ((tangent.forward(v), J @ v), (tangent.adjoint(u), J.T @ u)):
        assert product.dtype == torch.float64
        close(product, expected, 1e-4)
    close(single.pullback(theta.float(), u), J.T @ u, 1e-4)
