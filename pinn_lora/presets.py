"""The named methods: each a triple of metric, lift and integrator or a whole optimizer, with its start and its budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pinn_lora.catalog import choose
from pinn_lora.flow import Method
from pinn_lora.optimizers import Optimizer
from pinn_lora.optimizers.adam import Adam
from pinn_lora.optimizers.lbfgs import LBFGS


@dataclass(frozen=True)
class Preset:
    """A method with what it trains ("factors" or "all weights"), where the factors start, and its defaults."""

    description: str
    method: Method | Optimizer
    trains: str = "factors"
    initializer: str | None = "zero_b"
    step_size: float = 1.0
    max_steps: int = 80


def _flow(
    lift: Any, integrator: Any, description: str, *, metric: Any = "identity", decay: bool = False, **defaults
) -> Preset:
    return Preset(description, Method(metric, lift, integrator, decay), **defaults)


EXPLICIT = {"step_size": 1e-3, "max_steps": 5000}

PRESETS: dict[str, Preset] = {
    "odelora-implicit": _flow(
        "balanced", "rosenbrock_euler", "ODELoRA's balanced flow, implicit: adaptive Gauss-Newton step in factor space"
    ),
    "lora-lm": _flow("chain_rule", "rosenbrock_euler", "Levenberg-Marquardt on the factors (mass I)"),
    "odelora-euler": _flow(
        "balanced", "euler", "ODELoRA's balanced flow by explicit Euler (reconstructed)", **EXPLICIT
    ),
    "odelora-heun": _flow("balanced", "heun", "ODELoRA's balanced flow by Heun's method (reconstructed)", **EXPLICIT),
    "odelora-rk4": _flow("balanced", "rk4", "ODELoRA's balanced flow by Runge-Kutta 4 (reconstructed)", **EXPLICIT),
    "lora-sgd": _flow("chain_rule", "euler", "plain LoRA by gradient descent", **EXPLICIT),
    "scaled-gd": _flow("block_diagonal", "euler", "ScaledGD: LoRA with Riemannian preconditioning", **EXPLICIT),
    "lora-plus": _flow(
        {"name": "chain_rule", "ratio": 16.0},
        "euler",
        "LoRA+ by gradient descent: B moves 16 times as fast as A",
        **EXPLICIT,
    ),
    "lora-pro": _flow(
        {"name": "lora_pro", "gauge": "sylvester"},
        "euler",
        "LoRA-Pro by gradient descent, in its Sylvester gauge",
        **EXPLICIT,
    ),
    "reflora": _flow(
        "refactored", "euler", "RefLoRA by gradient descent: the gradient in the balanced factors", **EXPLICIT
    ),
    "adaprelora": _flow(
        "weighted",
        "euler",
        "AdaPreLoRA: Adafactor's metric brought to the factors, with cosine decay (reconstructed)",
        metric={"name": "adafactor", "source": "dense"},
        decay=True,
        **EXPLICIT,
    ),
    "odelora-bogacki-shampine": _flow(
        "balanced",
        "bogacki_shampine",
        "ODELoRA's balanced flow by Bogacki-Shampine 3(2), adaptive (reconstructed)",
        **EXPLICIT,
    ),
    "odelora-rkc": _flow(
        "balanced", "rkc", "ODELoRA's balanced flow by Runge-Kutta-Chebyshev, 8 stages (reconstructed)", **EXPLICIT
    ),
    "lora-adam": Preset("plain LoRA by Adam with cosine decay", Adam(), step_size=1e-2, max_steps=20_000),
    "lora-lbfgs": Preset("plain LoRA by L-BFGS, until its line search stops", LBFGS(), max_steps=5000),
    "full-adam": Preset("all weights by Adam with cosine decay", Adam(), "all weights", None, 1e-3, 20_000),
    "full-lbfgs": Preset("all weights by L-BFGS, until its line search stops", LBFGS(), "all weights", None, 1.0, 5000),
    "full-lm": Preset(
        "Levenberg-Marquardt on all weights", Method("identity", "chain_rule", "rosenbrock_euler"), "all weights", None
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of that name; ValueError names the valid ones."""
    return PRESETS[choose(name, list(PRESETS), what="method")]
