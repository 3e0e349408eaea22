"""A problem: a PDE with its conditions, its domain and, where there is one, a way to know its true solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pinn_lora.dde.geometry import GeometryDomain
from pinn_lora.declaration import check_declaration, listed, named
from pinn_lora.domain import BOUNDARY, Domain, first_inside
from pinn_lora.fields import Coordinates, Field, Recorder, components, pointwise
from pinn_lora.jets import Index, Indices, Jet, closure
from pinn_lora.places import ProblemError, caller, naming, place_of, sentence
from pinn_lora.ranges import COUNT_OR_NONE, must_be

Residual = Tensor | tuple[Tensor, ...]

PROBED = 16  # points at which it is seen which derivatives a residual asks for, and whether it gives a value for each


@dataclass(frozen=True)
class Condition:
    """A soft condition: residual components `operator(p, *fields)` at points of its own, for each of its faces.

    `faces` are (coordinate, side) pairs. Where `paired`, the operator sees (p, fields) of the first face and of the
    second at matching points, which is how a periodic condition compares the two ends. `points` are fixed data points; where
    `paired`, those of the second set after as many of the first. The face ("boundary", ...) is all of the boundary but the
    ends of time; `where` keeps the points p at which it is true.
    `place` is the file and line it was made in.
    """

    name: str
    operator: Callable[..., Residual]
    faces: tuple[tuple[str, str], ...] = ()
    paired: bool = False
    points: Tensor | None = None
    where: Callable[[Coordinates], Tensor] | None = None
    place: str = field(default_factory=caller, compare=False, repr=False)

    def sample(self, domain: Domain, n: int, *, seed: int) -> tuple[Tensor, ...]:
        """The point sets the operator is run on: one, or two matching ones where `paired`. ProblemError for a coordinate
        that the domain has not, and for points outside of it."""
        try:
            return self._sample(domain, n, seed)
        except MemoryError:
            raise
        except Exception as error:
            raise ProblemError(f"{self.place}: {sentence(error)}") from error

    def _sample(self, domain: Domain, n: int, seed: int) -> tuple[Tensor, ...]:
        if self.points is not None:
            if self.points.shape[1] != domain.dimension:
                shape, names = tuple(self.points.shape), ", ".join(domain.names)
                raise ValueError(
                    f"data: points have shape {shape}, the domain has {domain.dimension} coordinates: {names}"
                )
            outside = self.points[~domain.contains(self.points)]
            if len(outside):
                many = f"{len(outside)} of {len(self.points)} points lie outside of the domain"
                raise ValueError(f"data: {many}, the first at {domain.spell(outside[0])}")
            return tuple(self.points.chunk(2)) if self.paired else (self.points,)
        if not self.faces:
            raise ValueError(f"{self.name} has neither faces nor points; give faces=((coordinate, side),) or points=")
        if self.paired:
            return tuple(domain.sample_face(n, coordinate=c, side=s, seed=seed) for c, s in self.faces)
        if self.where is None:
            return (self._on_faces(domain, n, seed),)
        return (self._where(self.where, domain, n, seed),)

    def _on_faces(self, domain: Domain, n: int, seed: int) -> Tensor:
        share, parts = max(1, n // len(self.faces)), []
        for i, (face, side) in enumerate(self.faces):
            if face == BOUNDARY:
                parts.append(domain.sample_boundary(share, seed=seed + i))
            else:
                parts.append(domain.sample_face(share, coordinate=face, side=side, seed=seed + i))
        return torch.cat(parts)

    def _where(self, where: Callable[[Coordinates], Tensor], domain: Domain, n: int, seed: int) -> Tensor:
        def draw(m: int) -> Tensor:  # in any order: the faces come one after the other
            points, generator = self._on_faces(domain, m, seed), torch.Generator().manual_seed(seed)
            return points[torch.randperm(len(points), generator=generator, device="cpu")]

        def inside(points: Tensor) -> Tensor:
            kept, n = np.asarray(where(Coordinates.of(points.clone(), domain))), len(points)
            if kept.shape != (n,) or kept.dtype != bool:  # whole numbers would be read as places
                given = f"{kept.dtype} of shape {kept.shape}"
                raise ValueError(f"{self.name}: where= must give True or False for each of {n} points, not {given}")
            return torch.tensor(kept, device="cpu")

        refused = f"{self.name}: where= is true at hardly any point of the boundary"
        return first_inside(draw, inside, n, least=1e-3, refused=refused)


def _faces(on: str, side: str) -> tuple[tuple[str, str], ...]:
    sides = {"both": ("lower", "upper"), "lower": ("lower",), "upper": ("upper",)}
    if side not in sides:
        raise ValueError(f"there is no side {side!r} (choices: both, lower, upper)")
    return tuple((on, s) for s in sides[side])


Value = Callable[[Coordinates], Tensor | float]


def _check_value(name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{name}: value is {value!r:.60}; give a function of the points, as lambda p: 0.0")


def numbered(fields: Sequence[Any], number: int) -> Any:
    """The unknown of that number; ValueError where there is none."""
    if number not in range(-len(fields), len(fields)):
        raise ValueError(f"field is {number!r}, and the fields are numbered from 0 to {len(fields) - 1}")
    return fields[number]


def initial(value: Value, *, field: int = 0, derivative: int = 0, on: str = "t") -> Condition:
    """d^k u / dt^k = value(p) at the first instant, k = `derivative`."""
    _check_value("initial", value)
    must_be(COUNT_OR_NONE, derivative=derivative)
    name = "initial" if not derivative else "initial_" + "t" * derivative
    return Condition(name, lambda p, *u: numbered(u, field).d(*[on] * derivative) - value(p), faces=((on, "lower"),))


def dirichlet(
    value: Value,
    *,
    on: str,
    side: str = "both",
    field: int = 0,
    where: Callable[[Coordinates], Tensor] | None = None,
) -> Condition:
    """u = value(p) on the faces of coordinate `on`, or on all of the boundary but the ends of time: on="boundary".

    where: takes a part of it, for example `lambda p: p.x < 0`.
    """
    _check_value("dirichlet", value)
    if on == BOUNDARY and side != "both":
        raise ValueError(f"dirichlet: side is {side!r}, and on='boundary' has no sides; take a part of it with where=")
    faces = ((BOUNDARY, side),) if on == BOUNDARY else _faces(on, side)
    return Condition("dirichlet", lambda p, *u: numbered(u, field) - value(p), faces=faces, where=where)


def neumann(value: Value, *, on: str, side: str = "both", field: int = 0) -> Condition:
    """du/d`on` = value(p) on the faces of `on` (the derivative in the coordinate, not the outward one)."""
    _check_value("neumann", value)
    return Condition("neumann", lambda p, *u: numbered(u, field).d(on) - value(p), faces=_faces(on, side))


def robin(alpha: float, beta: float, value: Value, *, on: str, side: str = "both", field: int = 0) -> Condition:
    """alpha u + beta du/d`on` = value(p) on the faces of `on`."""
    _check_value("robin", value)

    def misfit(p, *u):
        one = numbered(u, field)
        return alpha * one + beta * one.d(on) - value(p)

    return Condition("robin", misfit, faces=_faces(on, side))


def periodic(*, on: str, derivatives: int = 1, field: int = 0) -> Condition:
    """u and its first `derivatives` derivatives in `on` agree at both ends of `on`."""
    must_be(COUNT_OR_NONE, derivatives=derivatives)

    def compare(left, right):
        u, v = (numbered(fields, field) for _, *fields in (left, right))
        return tuple(u.d(*[on] * k) - v.d(*[on] * k) for k in range(derivatives + 1))

    return Condition("periodic", compare, faces=_faces(on, "both"), paired=True)


def data(points: Any, values: Any, *, field: int = 0) -> Condition:
    """u = values (n,) at the given points (n, d)."""
    points, values = np.asarray(points), np.asarray(values)
    if np.iscomplexobj(points) or np.iscomplexobj(values):
        raise ValueError("data: complex numbers; give real and imaginary part as the data of two fields")
    points, values = (
        torch.tensor(v, dtype=torch.float64) for v in (points, values)
    )  # what is changed later is not seen
    if points.ndim != 2 or not len(points):
        raise ValueError(f"data: points have shape {tuple(points.shape)}; give (n, d), one column for each coordinate")
    if values.shape != points.shape[:1]:
        raise ValueError(f"data: {len(points)} points need values (n,), not values of shape {tuple(values.shape)}")
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise ValueError(f"data: {wrong} of {len(values)} values are not finite")

    def misfit(p, *u):
        return numbered(u, field) - values.to(numbered(u, field).value)

    return Condition("data", misfit, points=points)


class Problem:
    """Base of all problems. A subclass is a frozen dataclass of physical coefficients that gives `domain` and `residual`.

    `domain` is a Domain or a geometry of DeepXDE, whose coordinates are then x, y, z and t; see GeometryDomain for others.
    `fields` names the unknowns. `periodic` names coordinates in which the solution is periodic: the network then sees
    cos and sin of them. `conditions`, `ansatz` and `reference` are optional.
    """

    domain: ClassVar[Domain]
    fields: tuple[str, ...] = ("u",)
    periodic: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        given = vars(cls).get("domain")
        if hasattr(given, "on_boundary"):
            cls.domain = GeometryDomain(given)
        if "__post_init__" in vars(cls):
            cls.__post_init__ = named(vars(cls)["__post_init__"])  # type: ignore[attr-defined]

    def residual(self, p: Coordinates, *u: Field) -> Residual:
        """What the equation says is zero, at the points: a tensor (N,) or a tuple of them."""
        raise NotImplementedError(f"{type(self).__name__} has no residual; define residual(self, p, u)")

    def conditions(self) -> list[Condition]:
        """The soft conditions; empty where the ansatz is exact."""
        return []

    def ansatz(self, p: Coordinates, *n: Any) -> Any:
        """The solution from the network's outputs n, with conditions built in; written with jets' arithmetic."""
        (first, *more) = n
        return n if more else first

    def reference(self, p: Coordinates) -> Any:
        """The true solution at the points, numpy or torch (N,), or a tuple with one for each field."""
        raise NotImplementedError(f"{type(self).__name__} has no reference")

    def reference_error(self) -> float | None:
        """A bound on the relative L2 error of a reference that is computed; None where it has a closed form, is not there,
        or states none."""
        return None

    @property
    def layer_width(self) -> float | None:
        """How thin the solution's thinnest layer is, up to a factor that all members of the family share; None where nothing
        is known. A family takes more points where it is thinner, and nothing else reads it."""
        return None

    @property
    def has_residual(self) -> bool:
        return type(self).residual is not Problem.residual

    @property
    def has_reference(self) -> bool:
        return type(self).reference is not Problem.reference

    def terms(self) -> list[tuple[str, Callable[..., Residual], Condition | None]]:
        """The residual and the conditions under distinct names: repeated names get a number. ProblemError where the fields, the
        domain, the period, the residual or the conditions are none."""
        check_declaration(self)
        found: list[tuple[str, Callable[..., Residual], Condition | None]] = [("residual", self.residual, None)]
        with naming(self, self.conditions):
            conditions = listed(self.conditions(), Condition)
        kinds = [condition.name for condition in conditions]
        for i, condition in enumerate(conditions):
            repeated = kinds.count(condition.name) > 1
            name = f"{condition.name}_{kinds[:i].count(condition.name) + 1}" if repeated else condition.name
            if name in [taken for taken, _, _ in found]:
                raise ValueError(f"{type(self).__name__}: the condition name {name!r} is taken; choose another")
            found.append((name, condition.operator, condition))
        return found

    def needed(
        self, run: Callable[..., Residual], *, paired: bool = False, points: Tensor | None = None, place: str = ""
    ) -> Indices:
        """The derivatives `run` asks for, closed downwards: recorded by running it once, at `points` where it is made for
        these alone. ProblemError for unknown names, wrong shapes and coordinates that it changes; `place` is where `run` was
        made, if not where it is written."""
        place = place or place_of(run)
        asked: set[Index] = set()
        points = self.domain.sample(PROBED) if points is None else points
        n, seen = len(points), points.clone()
        arguments = (
            Coordinates.of(seen, self.domain),
            *(Recorder(points.new_ones(n), self.domain.names, asked) for _ in self.fields),
        )
        with naming(self, place):
            pointwise(run(arguments, arguments) if paired else run(*arguments), n)
            if not torch.equal(seen, points):  # the points of a term are held, and seen anew at every step
                raise ValueError("this changes a coordinate in place, as x *= 2 does; write x = 2 * x")
        return closure(asked)

    def solution(self, points: Tensor, network: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The fields (N,) at the points: the ansatz of a network's outputs (N, fields)."""
        outputs = network(points).unbind(-1)
        p = Coordinates.of(points.clone(), self.domain)  # its own to change: x *= 2 is harmless with jets too
        with naming(self, self.ansatz):
            return self._each_field(self.ansatz(p, *outputs))

    def solution_jets(self, coordinates: Sequence[Jet], outputs: Tensor, indices: Indices) -> list[Field]:
        """The fields with derivatives, from the outputs' jets (S, N, fields)."""
        with naming(self, self.ansatz):
            outs = (Jet(n, indices) for n in outputs.unbind(-1))
            jets = self._each_field(self.ansatz(Coordinates(coordinates, self.domain.names), *outs))
            return [Field(jet.data, indices, self.domain.names) for jet in jets]

    def _each_field(self, found: Any) -> list[Any]:
        found = list(components(found))
        if len(found) != len(self.fields):
            raise ValueError(f"the fields are {', '.join(self.fields)}, and the ansatz gives {len(found)}")
        return found

    def reference_values(self, points: Tensor) -> np.ndarray:
        """The reference (n, fields) as numpy float64. ProblemError for a wrong shape and for values that are not
        finite or not real."""
        points, place = points.double().cpu(), place_of(self.reference)
        with naming(self, place):
            found = components(self.reference(Coordinates.of(points.clone(), self.domain)))
            if any(np.iscomplexobj(f) for f in found):
                raise ValueError("the reference is complex; give its real and imaginary part as two fields")
            values = [np.asarray(f, dtype=np.float64) for f in found]
        if len(values) != len(self.fields):
            said = f"{len(values)} components, and the fields are {', '.join(self.fields)}; give an array (n,) for each"
            raise ProblemError(f"{place}: the reference of {type(self).__name__} gives {said}")
        shapes, expected = [value.shape for value in values], [(len(points),)] * len(self.fields)
        if shapes != expected:
            raise ProblemError(f"{place}: the reference of {type(self).__name__} has shapes {shapes}, not {expected}")
        stacked = np.stack(values, axis=1)
        wrong = np.flatnonzero(~np.isfinite(stacked).all(axis=1))
        if len(wrong):
            where = f"at {len(wrong)} of {len(points)} points, the first at {self.domain.spell(points[wrong[0]])}"
            raise ProblemError(f"{place}: the reference of {type(self).__name__} is not finite {where}")
        return stacked
