"""What is set up in DeepXDE as a problem and a solution of ours: `from_deepxde(data)` and `from_deepxde(data, net)`."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from pinn_lora.dde.checks import check_data, check_loss, check_types, outputs_of
from pinn_lora.dde.geometry import GeometryDomain
from pinn_lora.dde.load import load_deepxde, without_warnings
from pinn_lora.dde.networks import is_adapted, own_network, without_factors
from pinn_lora.dde.taylor import AutogradOperator
from pinn_lora.fields import Coordinates, Field
from pinn_lora.jets import Indices
from pinn_lora.places import ProblemError, naming, place_of, sentence
from pinn_lora.problem import Condition, Problem
from pinn_lora.ranges import COUNT, must_be
from pinn_lora.solution import Solution

PROBED = 2048  # points at which it is seen which derivatives the residual needs
MOST_OUTPUTS = 8  # that are tried where no network says how many there are
NAMES = {"IC": "initial"}  # of conditions; the others are called by what stands before BC in their class's name


@dataclass(frozen=True, init=False, eq=False, repr=False)
class DeepXDEProblem(Problem):
    """A `deepxde.data.PDE` or `TimePDE`: its geometry, its pde as the residual, and each of its conditions at the points that
    it was given there, under the names dirichlet, neumann, robin, periodic, operator, pointset, initial.

    Interior points are our own, from the geometry: train_distribution, anchors and exclusions are not looked at. A loss is
    sum_k w_k mean r_k^2, as there. It is not kept on disk: `Solution.load` wants `problem=from_deepxde(data)`. Coefficients
    that were named are fields of a subclass, see `_kind`.
    """

    if TYPE_CHECKING:  # not coefficients, so not fields of the dataclass
        data: Any
        _domain: GeometryDomain
        _residual: AutogradOperator
        _conditions: tuple[Condition, ...]

    def __init__(self, data: Any = None, *, outputs: int = 1, **coefficients: Any) -> None:
        if data is None:
            raise ValueError(
                "a problem from DeepXDE is made of its data alone; give pl.from_deepxde(data) as the problem"
            )
        domain = GeometryDomain(data.geom)
        fields = ("y",) if outputs == 1 else tuple(f"y{i + 1}" for i in range(outputs))
        conditions = tuple(_condition(bc, X, domain, outputs) for bc, X in _collocation(data))
        residual = AutogradOperator(self._pde, domain.names)
        held = {"data": data, "fields": fields, "_domain": domain, "_residual": residual, "_conditions": conditions}
        for name, value in (held | coefficients).items():
            object.__setattr__(self, name, value)

    @property
    def domain(self) -> GeometryDomain:  # type: ignore[override]
        return self._domain

    def __repr__(self) -> str:
        told = "".join(f"{field.name}={getattr(self, field.name)!r}, " for field in fields(self))
        return f"DeepXDEProblem({told}{type(self.data).__name__} on {self.domain!r})"

    def residual(self, p: Coordinates, *u: Field) -> tuple[Tensor, ...]:
        return self._residual(p, *u)

    def _pde(self, x: Tensor, y: Tensor) -> Any:
        with _undisturbed():
            if self.data.auxiliary_var_fn is None:
                return self.data.pde(x, y)
            found = self.data.auxiliary_var_fn(x.detach().cpu().numpy())
            return self.data.pde(x, y, torch.as_tensor(found).to(y))

    def conditions(self) -> list[Condition]:
        return list(self._conditions)

    def needed(self, run: Any, *, paired: bool = False, points: Tensor | None = None, place: str = "") -> Indices:
        """The derivatives that the result depends on, as seen at random fields. ProblemError, with the pde's file and line,
        for what fails, and where a row depends on the fields at other points than its own."""
        inside = run == self.residual
        operator = self._residual if inside else run
        points = self.domain.sample(PROBED) if points is None else points
        with naming(self, self.data.pde if inside else place):
            return operator.needed(points, len(self.fields), rows=len(points) // 2 if paired else len(points))

    def reference(self, p: Coordinates) -> Any:
        """The data's own `solution`. ProblemError, with its file and line, where it is not finite."""
        points = np.stack([np.asarray(getattr(p, name)) for name in self.domain.names], axis=1)
        with naming(self, self.data.soln):
            found = np.asarray(self.data.soln(points), dtype=np.float64).reshape(len(points), -1)
            wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
            if len(wrong):
                where = self.domain.spell(torch.as_tensor(points[wrong[0]]))
                raise ValueError(
                    f"solution is not finite at {len(wrong)} of {len(points)} points, the first at {where}"
                )
        return tuple(found.T)

    @property
    def has_reference(self) -> bool:
        return self.data.soln is not None

    def weights(self, loss_weights: Sequence[float]) -> dict[str, float]:
        """DeepXDE's loss_weights as the weights= of `finetune`: one for the residual, one by the name of every condition.

        ValueError where the components of the residual have several, which here is said in pde itself.
        """
        names = [name for name, _, _ in self.terms()]
        first = len(loss_weights) - len(names) + 1
        if first < 1 or len(set(loss_weights[:first])) > 1:
            raise ValueError(
                f"loss_weights={list(loss_weights)} do not fit {', '.join(names)}: all residuals of pde have one weight; "
                "multiply each by the root of its own in pde"
            )
        return {name: float(w) for name, w in zip(names, loss_weights[first - 1 :], strict=True)}


@lru_cache
def _kind(names: tuple[str, ...]) -> type[DeepXDEProblem]:
    """The class of the problems whose coefficients have these names: one for all members of a family."""
    for name in names:
        if not name.isidentifier() or name.startswith("_") or hasattr(DeepXDEProblem, name) or name == "data":
            raise ValueError(f"a coefficient cannot be called {name!r} here; choose another name")
    made = {"__module__": __name__, "__repr__": DeepXDEProblem.__repr__}
    bases, options = (DeepXDEProblem,), {"frozen": True, "init": False, "eq": False, "repr": False}
    return make_dataclass("DeepXDEProblem", names, bases=bases, namespace=made, **options) if names else DeepXDEProblem


def _condition(bc: Any, X: np.ndarray, domain: GeometryDomain, outputs: int) -> Condition:
    """The condition of `bc` at its own points X (n, d): a paired one where it has a row for each two of them."""
    kind = type(bc).__name__
    name = NAMES.get(kind, kind.removesuffix("BC").lower())
    if not len(X):
        raise ValueError(f"the condition {name} has no points; give data num_boundary, num_initial or anchors")

    def error(x: Tensor, y: Tensor) -> Tensor:
        with _undisturbed():
            return bc.error(X, x, y, 0, len(X))

    points = torch.as_tensor(X.astype(np.float64), device="cpu")
    lower, upper = (torch.tensor(b, dtype=torch.float64, device="cpu") for b in (domain.lower, domain.upper))
    moved = points.clamp(lower, upper)  # single precision puts some of them just outside
    points = torch.where((moved - points).abs() <= 1e-6 * (upper - lower), moved, points)
    operator = AutogradOperator(error, domain.names, home=True)
    try:
        _check_values(bc, X)
        rows = operator.rows(points, outputs)
    except Exception as wrong:
        place = place_of(inspect.unwrap(bc.func)) if hasattr(bc, "func") else ""
        raise ProblemError(f"{place and place + ': '}the condition {name}: {sentence(wrong)}") from wrong
    return Condition(name, operator, points=points, paired=2 * rows == len(points))


def _check_values(bc: Any, X: np.ndarray) -> None:
    """ValueError where the values that a condition is given at its points X (n, d), not those it takes of y, are not finite."""
    icbc = load_deepxde().icbc
    values = getattr(bc, "values", 0.0)  # of a PointSetBC
    if isinstance(bc, (icbc.IC, icbc.DirichletBC, icbc.NeumannBC)):
        values = bc.func(X, 0, len(X), None)
    wrong = int((~torch.as_tensor(values).isfinite()).sum())
    if wrong:
        raise ValueError(f"{wrong} of its values at {len(X)} points are not finite")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without warnings that only DeepXDE could mend, and with its cache of derivatives emptied afterwards."""
    try:
        with without_warnings():
            yield
    finally:
        load_deepxde().grad.clear()


# DeepXDE keeps a condition's values by the id of its array of points, which another array may get once this one is gone: so
# every array of points lives as long as its condition.
_kept: weakref.WeakKeyDictionary[Any, list[np.ndarray]] = weakref.WeakKeyDictionary()


def _collocation(data: Any) -> list[tuple[Any, np.ndarray]]:
    """Every condition of the data with its points (n, d), as the last training of the data took them."""
    found, start = [], 0
    for bc, count in zip(data.bcs, data.num_bcs, strict=True):
        if getattr(bc, "batch_size", None) is not None:
            raise ValueError(
                f"{type(bc).__name__} draws a batch of its points at every iteration; leave batch_size out"
            )
        points = data.train_x_bc[start : start + count]
        held = _kept.setdefault(bc, [])
        same = next((X for X in held if np.array_equal(X, points)), None)
        if same is None:
            held.append(same := points.copy())
        found.append((bc, same))
        start += count
    return found


def _problem(data: Any, outputs: int | None, coefficients: Mapping[str, Any]) -> DeepXDEProblem:
    make = partial(_kind(tuple(coefficients)), **coefficients)
    if outputs is not None:
        return make(data, outputs=outputs)
    failed = []
    for count in range(1, MOST_OUTPUTS + 1):
        try:
            problem = make(data, outputs=count)
            problem.needed(problem.residual)
            return problem
        except (IndexError, ValueError, RuntimeError) as error:
            failed.append(error)
    raise failed[0]


@overload
def from_deepxde(
    data: Any, *, outputs: int | None = None, coefficients: Mapping[str, Any] | None = None
) -> DeepXDEProblem: ...


@overload
def from_deepxde(data: Any, net: Any, *, coefficients: Mapping[str, Any] | None = None) -> Solution: ...


def from_deepxde(
    data: Any, net: Any = None, *, outputs: int | None = None, coefficients: Mapping[str, Any] | None = None
) -> Any:
    """A `deepxde.data.PDE` or `TimePDE` as a problem; with a network, or with a `deepxde.Model`, the solution that it is.

    A `deepxde.nn.FNN` of one width, with tanh, sin, swish or gelu and without transforms, becomes our MLP with the same
    values, which is quick; any other network stays as it is. The network is copied and its type kept. Where it carries factors
    (`adapt_model`), the solution's `base` is the network without them. loss_weights of a Model are in
    `.settings["weights"]`, which `finetune` takes where none are given.

    outputs: how many outputs a network for `data` has, where none is given; else they are counted by running pde.
    coefficients: by name, those that `data` was made with, which tell the members of a family apart (`solve_family`). Raises
    ValueError for other kinds of data, for a network of another type or number of inputs than the data's points, for a
    condition that fails or whose values are not finite, with its name, file and line, for a Model that is compiled
    with another loss than MSE or whose network is regularized, for a backend other than PyTorch and for conditions without
    points.
    """
    coefficients = {} if coefficients is None else coefficients
    if not isinstance(coefficients, Mapping):
        raise ValueError(f'coefficients is {coefficients!r:.60}; give them by name, as {{"nu": 0.01}}')
    must_be(COUNT, outputs=outputs)
    check_data(data)
    if net is None:
        return _problem(data, outputs, coefficients)
    model = net if hasattr(net, "losshistory") else None
    network = net if model is None else net.net
    if not isinstance(network, nn.Module):
        raise ValueError(f"net is a {type(net).__name__}; give a torch network or a deepxde.Model")
    check_types(network, data)
    if model is not None:
        check_loss(model)
    problem = _problem(data, outputs_of(network, data), coefficients)
    told = None if model is None else model.loss_weights
    settings = {"method": "deepxde", "weights": problem.weights(told) if told is not None else {}}
    base = None
    if is_adapted(network):
        base = Solution(problem, own_network(without_factors(network), problem.domain, like=network), settings=settings)
    return Solution(problem, own_network(network, problem.domain, like=network), base, settings=settings)
