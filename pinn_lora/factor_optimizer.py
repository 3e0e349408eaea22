"""Our explicit methods as ordinary optimizers of torch, for any loop that has a closure with a loss and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from pinn_lora.lora import Blocks, LoRALinear, unfactored
from pinn_lora.objective import Objective
from pinn_lora.optimizers import Optimizer, Resumable, Run
from pinn_lora.presets import Preset, preset_of
from pinn_lora.ranges import COUNT, POSITIVE, must_be

SAME = 0.5  # of the digits of a float: a loss at the same factors that differs by more has other points
NUMBERS = ("step_size", "max_steps", "finished", "_planned", "_factor")  # of a FactorOptimizer's state


class ClosureObjective:
    """What explicit methods ask of an `Objective`, from a closure: loss and gradient at theta, put into the network."""

    def __init__(self, network: nn.Module, blocks: Blocks, closure: Callable[[], Any]) -> None:
        self.network, self.blocks, self.closure = network, blocks, closure
        self.seen: list[tuple[Tensor, float, Tensor]] = []

    def known(self, theta: Tensor) -> tuple[float, Tensor] | None:
        """Loss and gradient, where they were taken at theta in this step or the one before."""
        return next(((f, g.clone()) for at, f, g in reversed(self.seen) if torch.equal(at, theta)), None)

    def gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """f and g (P,)."""
        found = self.known(theta)
        if found is None:
            self.blocks.write(self.network, theta)
            held = dict(self.network.named_parameters())
            value = self.run(list(held.values()))
            slopes = [held[key].grad for block in self.blocks.blocks for key in block.keys]
            if all(slope is None for slope in slopes):
                raise ValueError(
                    "the closure's loss leaves no gradient in these factors: it is another network's; make the FactorOptimizer "
                    "with the network that is trained, as FactorOptimizer(model.net)"
                )
            shapes = [held[key] for block in self.blocks.blocks for key in block.keys]
            g = torch.cat(
                [(torch.zeros_like(p) if s is None else s).reshape(-1) for s, p in zip(slopes, shapes, strict=True)]
            )
            found = value, g
            self.seen.append((theta.clone(), value, g.clone()))
        return found

    def run(self, tensors: list[Tensor]) -> float:
        """The loss, with its gradient in the tensors."""
        for tensor in tensors:
            tensor.grad = None
        with torch.enable_grad():
            value = self.closure()
        return float(value.detach() if isinstance(value, Tensor) else value)

    def value(self, theta: Tensor) -> float:
        """f(theta)."""
        return self.gradient(theta)[0]

    def unfactored(self) -> WeightObjective:
        """The same loss where the weights of the adapted layers are trained themselves."""
        return WeightObjective(self)


class WeightObjective:
    """A closure's loss and gradient in the adapted layers' own weights, by putting these in place of W0 + s (B A - B0 A0)."""

    def __init__(self, factors: ClosureObjective) -> None:
        self.factors = factors
        self.blocks = Blocks(unfactored(factors.network))
        self.size = self.blocks.size

    def gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        """f and g (P,)."""
        network, leaves = self.factors.network, {}
        held = dict(network.named_parameters())
        layers = {f"{n}.weight": m for n, m in network.named_modules() if isinstance(m, LoRALinear)}
        for name, value in self.blocks.parameters(weights).items():
            if name in layers:
                leaves[name] = value.detach().clone().requires_grad_()
                layers[name].effective_weight = lambda B, A, W=leaves[name]: W  # type: ignore[method-assign]
            else:
                held[name].data.copy_(value)
                leaves[name] = held[name]
        try:
            f = self.factors.run(list(leaves.values()))
        finally:
            for layer in layers.values():
                layer.__dict__.pop("effective_weight", None)
        slopes = [leaves[block.keys[0]] for block in self.blocks.blocks]
        return f, torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in slopes])


class FactorOptimizer(torch.optim.Optimizer):
    """An explicit method on the factors of an adapted network, as a `torch.optim.Optimizer`: `step(closure)` is one step of it.

    method: a preset's name, a `Method` or an optimizer. step_size and max_steps are the preset's where not given; the latter
    is the length over which methods with a decay fall to zero. param_groups[0]["lr"] is the step size, for schedulers too: a
    decay goes on from what they make of it; a method with a line search asks for it only where it begins anew.
    Where the loss at unchanged factors is another one, its points have changed, and what a line search or a quasi-Newton
    method remembers starts anew; where somebody else has changed the factors, the whole method does. A step that leads to no
    finite loss or factors raises FloatingPointError, the factors being as before it, and the next one starts anew; where the
    loss is not finite before the step, nothing is lost. `finished` says that the last step found nothing more. Raises
    ValueError for a network without factors, for methods of all weights, and for implicit ones, which need residuals; `step`
    for a loss that is another network's.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str | Optimizer = "odelora-rk4",
        *,
        step_size: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        preset = preset_of(method)
        _refuse(method, preset, network)
        h = preset.step_size if step_size is None else step_size
        must_be(POSITIVE, step_size=h)
        must_be(COUNT, max_steps=max_steps)
        self.network, self.method, self.blocks = network, preset.method, Blocks(network)
        self.step_size, self.max_steps = h, preset.max_steps if max_steps is None else max_steps
        self._planned = h  # the step size that the method wants
        self._factor = 1.0  # what schedulers have made of its decay
        self.finished = False
        held = dict(network.named_parameters())
        super().__init__([held[key] for block in self.blocks.blocks for key in block.keys], {"lr": h})
        self._theta = self.blocks.read(network)
        self._run = self._start(self._theta)
        self._objective: ClosureObjective | None = None

    def _start(self, theta: Tensor) -> Run:
        return self.method.start(self.blocks, theta, step_size=self.step_size, max_steps=self.max_steps)

    @property
    def _decays(self) -> bool:
        return bool(getattr(self.method, "decay", False))

    def _from_the_first_size(self) -> None:
        """A decay begins anew, at what a scheduler has made of it; without a decay the step size stays."""
        if self._decays:
            self._planned = self.step_size
            self.param_groups[0]["lr"] = self._factor * self.step_size

    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """One step; the loss where it began. `closure` clears the gradients, takes the loss, calls backward, returns it."""
        if closure is None:
            raise ValueError("FactorOptimizer.step needs a closure that returns the loss and leaves its gradient")
        theta = self.blocks.read(self.network)
        if self._planned:  # 0 where the decay has ended
            self._factor = self.param_groups[0]["lr"] / self._planned
        if torch.equal(theta, self._theta):
            theta = self._theta  # the same tensor, by which a flow knows what it has at hand
        else:  # somebody else has changed the factors, or the last step led nowhere
            self._run, self._theta, self._objective = self._start(theta), theta, None
            self._from_the_first_size()
        objective = self._objective_at(theta, closure)
        self._run.h = h = self.param_groups[0]["lr"]
        taken = self._run.step(cast(Objective, objective), theta)
        if not (math.isfinite(taken.value) and bool(taken.theta.isfinite().all())):
            self.blocks.write(self.network, theta)
            self._theta, self._objective = torch.full_like(theta, torch.nan), None  # what the run has at hand is spoilt
            self._from_the_first_size()
            raise FloatingPointError(
                f"a step of size {h:g} leads to factors or a loss that are not finite; they are as before it"
            )
        self.blocks.write(self.network, taken.theta)
        self._theta, self.finished, self._planned = taken.theta, taken.finished, taken.next_h
        self.param_groups[0]["lr"] = taken.next_h * (self._factor if self._decays else 1.0)
        return taken.value

    def state_dict(self) -> dict[str, Any]:
        """torch's, and beside it a copy of all that the method remembers, in tensors, numbers and plain containers: a fresh
        optimizer on the same factors goes on from it as this one, bit for bit."""
        known = self._objective.known(self._theta) if self._objective else None
        own = {name: getattr(self, name) for name in ("_theta", *NUMBERS)}
        own |= {"method": repr(self.method), "known": known, "begun": self._objective is not None}
        own["run"] = self._resumable().state()
        return {**super().state_dict(), "method": _copied(own, self._theta.device)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a `state_dict`. ValueError for one that is of another method or of other factors."""
        run, saved = self._resumable(), state_dict.get("method")
        if saved is None:
            raise ValueError(
                "this state is of another optimizer; give one that a FactorOptimizer's state_dict returned"
            )
        saved = _copied(saved, self._theta.device)
        if saved["method"] != repr(self.method):
            raise ValueError(
                f"this state is of the method {saved['method']} and this optimizer's is {self.method!r}; make it with that one"
            )
        if len(saved["_theta"]) != len(self._theta):
            raise ValueError(
                f"this state is of factors with {len(saved['_theta'])} numbers and the network's have {len(self._theta)}; "
                "adapt the same layers at the same ranks"
            )
        super().load_state_dict(state_dict)
        vars(self).update({name: saved[name] for name in ("_theta", *NUMBERS)})
        self._objective = None
        if saved["begun"]:  # the points are told by the loss at them; `step` brings the closure
            self._objective = ClosureObjective(self.network, self.blocks, lambda: math.nan)
            self._objective.seen = [(self._theta.clone(), *saved["known"])] if saved["known"] else []
        run.restore(saved["run"], cast("Objective | None", self._objective), self._theta)

    def _resumable(self) -> Resumable:
        if not isinstance(self._run, Resumable):
            raise ValueError(
                f"what {self.method!r} keeps cannot be saved; derive its run from pinn_lora.optimizers.Resumable"
            )
        return self._run

    def _objective_at(self, theta: Tensor, closure: Callable[[], Any]) -> ClosureObjective:
        """The objective so far where its loss at theta still holds, else a new one."""
        fresh = ClosureObjective(self.network, self.blocks, closure)
        value, g = fresh.gradient(theta)
        if not (math.isfinite(value) and bool(g.isfinite().all())):  # no run has seen it yet
            raise FloatingPointError(
                f"the loss at these factors, {value:g}, or its gradient is not finite; no step is taken"
            )
        kept = self._objective
        known = kept.known(theta) if kept else None
        rounding = torch.finfo(theta.dtype).eps ** SAME
        if kept is None or (known and not abs(known[0] - value) <= rounding * abs(value)):
            kept = self._objective = fresh
        kept.closure, kept.seen = closure, [(theta.clone(), value, g)]
        return kept


def _copied(value: Any, device: torch.device) -> Any:
    """A copy on the device, of tensors in containers."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(one, device) for key, one in value.items()}
    return type(value)(_copied(one, device) for one in value) if isinstance(value, list | tuple) else value


def _refuse(method: Any, preset: Preset, network: nn.Module) -> None:
    if preset.method.implicit:
        raise ValueError(
            f"{method!r} takes implicit steps, which need residuals, and a closure has only a loss and its gradient: use "
            f"pl.finetune(pl.from_deepxde(data, net), pl.from_deepxde(other_data), method={method!r})"
        )
    if preset.trains == "all weights":
        raise ValueError(f"{method!r} trains all weights; choose a method on factors, such as 'lora-adam'")
    if not any(isinstance(module, LoRALinear) for module in network.modules()):
        raise ValueError("this network has no factors; pl.adapt_model(model, rank=8) or pl.adapt puts them in")
