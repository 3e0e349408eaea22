"""A study's TOML file: what may stand in it, and the sentences that say what is wrong with one."""

from __future__ import annotations

import inspect
import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import pinn_lora.problems
from pinn_lora import initializers, optimizers
from pinn_lora.catalog import build, choose, find, names
from pinn_lora.declaration import not_frozen
from pinn_lora.method import Method
from pinn_lora.optimizers import Optimizer
from pinn_lora.places import ProblemError, files_of, place_in
from pinn_lora.presets import PRESETS, Preset, preset_of
from pinn_lora.problem import Problem
from pinn_lora.problem_file import problem_in_file
from pinn_lora.rslora import described, scale_of
from pinn_lora.scalars import SEEDS

Model = TypeVar("Model", bound=BaseModel)
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"  # of what names a folder
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
NUMBER = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([*/])\s*pi\s*$")


class ConfigError(ValueError):
    """A config that cannot be run: one sentence a mistake."""


class Strict(BaseModel):
    """Unknown keys and wrong types are mistakes; nothing is guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PretrainConfig(Strict):
    """How a case's base is made; what is not given is `pretrain`'s default. method: a preset's name, or the parts of one."""

    method: str | dict[str, Any] | None = None
    max_steps: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    points: int | None = Field(default=None, ge=1)

    @field_validator("method")
    @classmethod
    def _has_parts(cls, method: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        for key in method if isinstance(method, dict) else ():
            choose(key, ["metric", "lift", "integrator", "decay"], what="part of a method")
        if isinstance(method, dict):
            Method(**method)
        return method

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `pretrain`."""
        found = self.model_dump(exclude_none=True)
        return {**found, "method": Method(**self.method)} if isinstance(self.method, dict) else found


class CaseConfig(Strict):
    """One adaptation: a problem's file, the coefficients of base and target, the network and the rank."""

    problem: str
    base: dict[str, Any]
    target: dict[str, Any]
    network: str | dict[str, Any] = "mlp"
    width: int = Field(24, ge=1)
    depth: int = Field(3, ge=1)
    rank: int = Field(4, ge=1)
    scale: Any = 1.0  # a number, or "rslora", read by `scale_of`
    points: int | None = Field(None, ge=1)  # the study's where not given
    weights: dict[str, float] | Literal["traces"] = {}  # "traces": those that `pretrain` chooses
    pretrain: PretrainConfig = PretrainConfig()
    full_scan: bool = True  # every step size with every seed; else the step size is tuned with the first seed alone

    @field_validator("scale")
    @classmethod
    def _scale(cls, scale: Any) -> float | dict[str, Any]:
        return described(scale_of(scale))


class MethodConfig(Strict):
    """A preset by name, or a method of its own parts under a name of its own, with the step sizes to try and its budget."""

    name: str = Field(pattern=NAME)
    metric: str | dict[str, Any] | None = None
    lift: str | dict[str, Any] | None = None
    integrator: str | dict[str, Any] | None = None
    decay: bool = False
    optimizer: str | dict[str, Any] | None = None
    trains: Literal["factors", "all weights"] = "factors"
    starts: list[str] | None = None
    step_sizes: list[float] | None = Field(None, min_length=1)
    max_steps: int | None = Field(None, ge=1)
    max_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    cases: list[int] | None = Field(None, min_length=1)  # which cases, by their place from 1; all where not given

    @field_validator("step_sizes")
    @classmethod
    def _positive(cls, values: list[float] | None) -> list[float] | None:
        for value in values or []:
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"a step size is {value}; each must be a positive number")
        return values

    @model_validator(mode="after")
    def _each_once(self) -> MethodConfig:
        told = [f"{value:g}" for value in self.step_sizes or []]  # as it names a run's folder
        for what, given in (("step size", told), ("start", self.starts or [])):
            for value, count in Counter(given).items():
                if count > 1:
                    raise ValueError(f"the {what} {value} of {self.name} stands {count} times; give it once")
        return self

    def preset(self) -> Preset:
        """The method with its defaults; ValueError for names that do not exist."""
        parts = (self.lift, self.integrator, self.metric, self.optimizer)
        if all(part is None for part in parts) and not self.decay:
            return PRESETS[choose(self.name, list(PRESETS), what="method")]
        if self.name in PRESETS:
            raise ValueError(f"{self.name} is a preset; give a method of your own parts another name")
        if self.optimizer is not None:
            if len([part for part in parts if part is not None]) > 1 or self.decay:
                raise ValueError(
                    f"{self.name} has an optimizer, which is whole: leave metric, lift, integrator and decay out"
                )
            method: Any = build(optimizers, Optimizer, self.optimizer)
        else:
            method = Method(
                self.metric or "identity", self.lift or "chain_rule", self.integrator or "euler", self.decay
            )
        start = method.initializer if self.trains == "factors" else None
        return replace(preset_of(method), trains=self.trains, initializer=start)


class StudyConfig(Strict):
    """A study: cases x methods x starts x step sizes x seeds."""

    name: str = Field(pattern=NAME)
    title: str
    description: str = ""
    comparison: bool = True
    seeds: list[Seed] = Field([0], min_length=1)
    jobs: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    points: int = Field(3000, ge=1)
    resamplings: int = Field(14, ge=0)  # how often points are added over a run, at most 8 times
    compile: bool = False  # fused kernels, made once a process; making them is not counted in a run's seconds
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    case: list[CaseConfig] = Field(min_length=1)
    method: list[MethodConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: a seed stands twice")
        for method in self.method:
            preset = method.preset()
            for start in method.starts or []:
                if preset.trains == "all weights":
                    raise ValueError(
                        f"{method.name} trains all weights, so it has no start {start!r}; leave `starts` out"
                    )
                choose(start, names(initializers), what="start")
            for number in method.cases or []:
                if not 1 <= number <= len(self.case):
                    raise ValueError(f"{method.name} names case {number}; there are cases 1 to {len(self.case)}")
        everywhere, seen = list(range(1, len(self.case) + 1)), set()
        for method in self.method:
            for number in method.cases or everywhere:
                if (method.name, number) in seen:
                    raise ValueError(
                        f"the method {method.name!r} stands twice for case {number}; "
                        "give its starts and step sizes in one place"
                    )
                seen.add((method.name, number))
        return self


def load_config(path: str | Path) -> StudyConfig:
    """Reads and checks a TOML file. ConfigError says in one sentence a mistake what is wrong and what would be right."""
    raw = read_toml(path)
    if "base" in raw and "case" not in raw:
        raise ConfigError(f"{path} is the config of a family; run it with: pinn-lora family {path}")
    return check_config(raw, where=str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file's plain values. ConfigError for one that is not there or is no TOML."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"{path} is a folder; give a TOML file" if path.is_dir() else f"there is no config file {path}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        wrong = f"its byte {error.start + 1} is no UTF-8"
        raise ConfigError(f"{path} is not valid TOML: {wrong}; save it as UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def check_config(raw: dict[str, Any], *, where: str) -> StudyConfig:
    """A checked study from plain values."""
    return check_model(StudyConfig, raw, where=where, parts=MODELS)


def check_model(model: type[Model], raw: dict[str, Any], *, where: str, parts: Mapping[str, type[BaseModel]]) -> Model:
    """A checked `model` from plain values, with `parts` under the keys of that name. ConfigError: one sentence a mistake,
    with its places."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        said: dict[str, list[str]] = {}  # of a value that may be of several types, each says what it is not
        for mistake in error.errors():
            if mistake["type"] == "literal_error" and isinstance(mistake["input"], dict):
                continue  # a table where a word may stand, too: what is wrong in it is said
            said.setdefault(_said_of(mistake), []).append(_sentence(mistake, model, parts))
        raise ConfigError("; ".join(f"{where}: {sentence}" for sentence in _sentences(said))) from None


def _sentences(said: Mapping[str, Sequence[str]]) -> list[str]:
    """What is said of each place, in sentences: one for all places of which the same is said, which names at most three."""
    places: dict[str, list[str]] = {}
    for start, ends in said.items():
        end = " or ".join(dict.fromkeys(ends)).replace(" or give ", " or ").replace(" or it must be ", " or ")
        alike = ": " + end if start.endswith(": ") else start + end  # what is missing is said of each place by itself
        places.setdefault(alike, []).append(start.removesuffix(": ") if start.endswith(": ") else "")
    for starts in places.values():
        starts[2:] = starts[2:] if len(starts) <= 3 else [f"{len(starts) - 2} more places"]
    return [" and ".join(starts) + end for end, starts in places.items()]


MODELS: dict[str, type[BaseModel]] = {"case": CaseConfig, "method": MethodConfig, "pretrain": PretrainConfig}


WORDS = {  # of pydantic's mistakes, with what their `ctx` says
    "missing": "is missing",
    "string_pattern_mismatch": "take letters, digits, - and _, beginning with a letter or a digit",
    "too_short": "give at least one",
    "literal_error": "it must be {expected}",
    "finite_number": "give a finite number, or leave it out",
    "greater_than": "it must be above {gt:g}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be below {lt}",
    "string_type": "give a text",
    "bool_type": "give true or false",
    "int_type": "give a whole number",
    "float_type": "give a number",
    "list_type": "give a list",
    "dict_type": "give a table",
    "model_type": "give a table",
}


def _said_of(mistake: Any) -> str:
    """Where a mistake is and the value that stands there: "case 2, rank = 0: "; nothing where it is of the whole."""
    place = ""
    for part in mistake["loc"]:
        if isinstance(part, int):
            place += f" {part + 1}"
        elif part != "str" and not part.startswith(("dict[", "literal[")):  # which of several types it is not
            place += (", " if place[-1:].isdigit() else "." if place else "") + part
    if mistake["type"] == "missing":
        return f"{place} "
    shown = mistake["type"] != "extra_forbidden" and not isinstance(mistake["input"], dict)
    return f"{place} = {mistake['input']!r}: " if place and shown else f"{place}: " if place else ""


def _sentence(mistake: Any, model: type[BaseModel], parts: Mapping[str, type[BaseModel]]) -> str:
    place = mistake["loc"]
    if mistake["type"] == "extra_forbidden":
        owner = next((parts[part] for part in reversed(place[:-1]) if part in parts), model)
        try:
            choose(place[-1], [field.alias or name for name, field in owner.model_fields.items()], what="key")
        except ValueError as sentence:
            return str(sentence)
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    if mistake["type"] in WORDS:
        return WORDS[mistake["type"]].format(**mistake.get("ctx", {}))
    told = mistake["msg"]
    return told[0].lower() + told[1:]


def coefficient(value: Any) -> Any:
    """A coefficient as written: numbers and names stay, "0.01/pi" and "2*pi" are computed."""
    if isinstance(value, str) and (match := NUMBER.match(value)):
        number = float(match[1])
        return number / math.pi if match[2] == "/" else number * math.pi
    return value


def setting(text: str) -> tuple[str, Any]:
    """A coefficient from the command line: "nu=0.01/pi" -> ("nu", "0.01/pi"), "k=2" -> ("k", 2)."""
    name, sign, value = (part.strip() for part in text.partition("="))
    if not (name and sign and value):
        raise ConfigError(f"{text!r} sets nothing; write NAME=VALUE, for example nu=0.01/pi")
    for kind in (int, float):
        with suppress(ValueError):
            return name, kind(value)
    return name, value


def load_problem(name: str, coefficients: dict[str, Any], *, folder: str | Path = ".") -> Problem:
    """A problem by the stem of its file in problems/, or by the path of a .py file from `folder`. ConfigError for what is
    not there or cannot be built."""
    if name.endswith(".py"):
        try:
            cls = problem_in_file(Path(folder) / name)
        except ProblemError as error:
            raise ConfigError(str(error)) from None
    else:
        try:
            cls = find(pinn_lora.problems, Problem, name)
        except ValueError as error:
            raise ConfigError(f"{error}, or the path of a .py file") from None
    if coefficients and not hasattr(cls, "__dataclass_fields__"):
        raise ConfigError(not_frozen(cls))
    fields = inspect.signature(cls).parameters
    values = {key: coefficient(value) for key, value in coefficients.items()}
    for key, value in values.items():
        try:
            choose(key, list(fields), what=f"coefficient of {name}")
        except ValueError as error:
            raise ConfigError(str(error)) from None
        kind = getattr(fields[key].annotation, "__name__", fields[key].annotation)
        if kind in ("float", "int") and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ConfigError(f'{name}: {key} is {value!r}; give a number, or one like "0.01/pi"')
    try:
        return cls(**values)
    except ProblemError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:  # a problem's own code
        where = place_in(error, files_of(cls)) if name.endswith(".py") else ""
        raise ConfigError(f"{where or name}: {error}") from None
