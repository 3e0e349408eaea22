"""A family's TOML file: what may stand in it, and the problems that it means."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from pinn_lora import initializers
from pinn_lora.catalog import choose, names
from pinn_lora.config import (
    NAME,
    ConfigError,
    PretrainConfig,
    Seed,
    Strict,
    check_model,
    coefficient,
    load_problem,
    read_toml,
)
from pinn_lora.families.neighbours import is_number, varying
from pinn_lora.presets import find_preset
from pinn_lora.problem import Problem


class VaryConfig(Strict):
    """The values of one coefficient: `count` of them between `from` and `to`, both included."""

    first: Any = Field(alias="from")
    last: Any = Field(alias="to")
    count: int = Field(ge=2)
    spacing: Literal["log", "linear"] = "log"

    @field_validator("first", "last")
    @classmethod
    def _number(cls, value: Any) -> float:
        found = coefficient(value)
        if not is_number(found):
            raise ValueError('give a number, or one like "0.01/pi"')
        return float(found)

    @model_validator(mode="after")
    def _positive(self) -> VaryConfig:
        if self.spacing == "log" and min(self.first, self.last) <= 0:
            raise ValueError('log spacing needs positive ends; or take spacing = "linear"')
        return self

    def values(self) -> list[float]:
        """The values, in order."""
        spread = np.geomspace if self.spacing == "log" else np.linspace
        return [float(value) for value in spread(self.first, self.last, self.count)]


class FamilyConfig(Strict):
    """A family: a base, its members, and how they are solved, once for every seed."""

    name: str = Field(pattern=NAME)
    title: str
    description: str = ""
    problem: str
    base: dict[str, Any]
    members: list[dict[str, Any]] | None = Field(None, min_length=1)  # each what differs from the base
    vary: dict[str, VaryConfig] | None = Field(None, min_length=1)  # several coefficients give every combination
    network: str | dict[str, Any] = "mlp"
    width: int = Field(24, ge=1)
    depth: int = Field(3, ge=1)
    method: str = "odelora-implicit"
    rank: int = Field(4, ge=1)
    initializer: str | None = None
    train_biases: bool = False
    train_output: bool = False
    step_size: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_steps: int | None = Field(None, ge=1)
    max_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    points: int | None = Field(None, ge=1)  # by the rule for thin layers where not given
    # "traces": those that `pretrain` chooses
    weights: dict[str, float] | Literal["traces"] = Field(default_factory=dict)
    pretrain: PretrainConfig = PretrainConfig()  # of the bases, and of the members that are trained from scratch
    from_scratch: int = Field(0, ge=0)  # how many members are also trained from scratch, to compare with
    seeds: list[Seed] = Field([0], min_length=1)
    # each member also straight from the base at each of `ranks`; `rank_members` alone, each what differs from the base
    ranks: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=1)
    rank_members: list[dict[str, Any]] | None = Field(None, min_length=1)
    rank_seeds: list[int] | None = Field(None, min_length=1)  # of `seeds`; the first where not given
    jobs: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    compile: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> FamilyConfig:
        if (self.members is None) == (self.vary is None):
            raise ValueError("give either members, a list of coefficients, or vary, ranges of them")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: a seed stands twice")
        self._check_ranks()
        find_preset(self.method)
        if self.initializer is not None:
            choose(self.initializer, names(initializers), what="start")
        return self

    @property
    def training(self) -> dict[str, Any]:
        """How a member is trained, whatever its rank and its points: the arguments that `finetune` and `solve_family` share."""
        names = ("method", "initializer", "train_biases", "train_output", "step_size", "max_steps", "max_seconds")
        return {name: getattr(self, name) for name in (*names, "compile")} | {"weights": self.chosen_weights}

    @property
    def chosen_weights(self) -> dict[str, float] | None:
        """None where they are `pretrain`'s choice, and then the base's."""
        return None if isinstance(self.weights, str) else self.weights

    def _check_ranks(self) -> None:
        if self.ranks is None:
            for name in ("rank_members", "rank_seeds"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is given without ranks; give the ranks to try, or leave {name} out")
            return
        if len(set(self.ranks)) < len(self.ranks):
            raise ValueError(f"ranks = {self.ranks}: a rank stands twice")
        for seed in self.rank_seeds or []:
            if seed not in self.seeds:
                raise ValueError(
                    f"rank_seeds names seed {seed}, which has no base (choices: {', '.join(map(str, self.seeds))})"
                )

    def rank_problems(self, base: Problem, members: Sequence[Problem], *, origin: str | Path = ".") -> list[Problem]:
        """The members that are adapted at every rank; none where no ranks are given."""
        if self.ranks is None or self.rank_members is None:
            return [member for member in members if member != base] if self.ranks else []
        chosen = [load_problem(self.problem, {**self.base, **values}, folder=origin) for values in self.rank_members]
        for i, member in enumerate(chosen):
            if member == base or member in chosen[:i]:
                why = "is the base itself" if member == base else "stands twice"
                raise ConfigError(f"rank_members: {member!r} {why}; leave it out")
        known = varying([base, *members])
        for name in varying([base, *chosen]):
            if name not in known:
                raise ConfigError(f"rank_members vary {name}, and the family varies {', '.join(known)}")
        return chosen

    def problems(self, *, origin: str | Path = ".") -> tuple[Problem, list[Problem]]:
        """The base's problem and the members'; the path of a problem is taken from the folder `origin`."""
        if self.vary is not None:
            columns = [[(name, value) for value in vary.values()] for name, vary in self.vary.items()]
            differing = [dict(values) for values in itertools.product(*columns)]
        else:
            differing = self.members or []
        if self.from_scratch > len(differing):
            raise ConfigError(f"from_scratch = {self.from_scratch}, and there are {len(differing)} members")
        load = lambda values: load_problem(self.problem, values, folder=origin)  # noqa: E731
        return load(self.base), [load({**self.base, **values}) for values in differing]


PARTS: dict[str, type[BaseModel]] = {"pretrain": PretrainConfig, "vary": VaryConfig}


def load_family(path: str | Path) -> FamilyConfig:
    """Reads and checks a TOML file. ConfigError says in one sentence a mistake what is wrong and what would be right."""
    raw = read_toml(path)
    if "case" in raw:
        raise ConfigError(f"{path} is the config of a study; run it with: pinn-lora run {path}")
    return check_family(raw, where=str(path))


def check_family(raw: dict[str, Any], *, where: str) -> FamilyConfig:
    """A checked family from plain values."""
    return check_model(FamilyConfig, raw, where=where, parts=PARTS)
