"""The named methods: each a triple of metric, lift and integrator or a whole optimizer, with its start and its budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pinn_lora.catalog import choose
from pinn_lora.lifts.chain_rule import ChainRule
from pinn_lora.method import Method
from pinn_lora.optimizers import Optimizer
from pinn_lora.optimizers.adam import Adam
from pinn_lora.optimizers.altlora import AltLoRA
from pinn_lora.optimizers.bug import BUG
from pinn_lora.optimizers.cayley import Cayley
from pinn_lora.optimizers.lbfgs import LBFGS
from pinn_lora.optimizers.lora_pro_adamw import LoRAProAdamW
from pinn_lora.optimizers.lora_rite import LoRARITE
from pinn_lora.optimizers.momentum import Momentum
from pinn_lora.optimizers.muon import Muon
from pinn_lora.optimizers.od_lora import ODLoRA
from pinn_lora.optimizers.rad import RAD
from pinn_lora.optimizers.riemannian import Riemannian
from pinn_lora.optimizers.scion import Scion
from pinn_lora.optimizers.soap import SOAP
from pinn_lora.optimizers.spqn import SPQN
from pinn_lora.optimizers.ssbroyden import SSBroyden


@dataclass(frozen=True)
class Preset:
    """A method with what it trains ("factors" or "all weights"), where the factors start, its defaults, and where it is from.

    `reconstructed`: not from a paper's full text or its published code, but from its abstract and what follows from it.
    Raises ValueError for a lift (and so for a metric) or a ratio of factors where all weights are trained.
    """

    description: str
    method: Optimizer
    trains: str = "factors"
    initializer: str | None = "zero_b"
    step_size: float = 1.0
    max_steps: int = 80
    source: str = ""
    reconstructed: bool = False

    def __post_init__(self) -> None:
        plain = {"lift": ChainRule(), "ratio": 1.0}
        for part, value in plain.items() if self.trains == "all weights" else ():
            if (given := getattr(self.method, part, value)) != value:
                raise ValueError(
                    f"the {part} {given} is of factors and would do nothing where all weights are trained; leave it out, or "
                    "train factors"
                )


FLOW = {"step_size": 1e-3, "max_steps": 5000}  # explicit, at a fixed step size
MOMENTS = {"step_size": 1e-2, "max_steps": 20_000}
FULL = {"trains": "all weights", "initializer": None}
ODELORA = {"source": "Gao & Tan 2026 (2602.07479)", "reconstructed": True}
ADAPRE = {"source": "Liu, Bian & Cai 2026 (2605.08734)", "reconstructed": True}
ADAFACTOR = {"name": "adafactor", "source": "dense"}


def _flow(
    description: str, lift: Any, integrator: str = "euler", metric: Any = "identity", decay=False, **defaults
) -> Preset:
    return Preset(description, Method(metric, lift, integrator, decay), **{**FLOW, **defaults})


def _implicit(description: str, lift: str, **defaults) -> Preset:
    return Preset(description, Method("identity", lift, "rosenbrock_euler"), **defaults)


def _whole(description: str, method: Optimizer, **defaults) -> Preset:
    return Preset(description, method, **{**MOMENTS, **defaults})


PRESETS: dict[str, Preset] = {
    # implicit flows
    "odelora-implicit": _implicit(
        "ODELoRA's balanced flow, implicit: adaptive Gauss-Newton step in factor space", "balanced", **ODELORA
    ),
    "lora-lm": _implicit(
        "Levenberg-Marquardt on the factors (mass I)", "chain_rule", source="Levenberg 1944, Marquardt 1963"
    ),
    "full-lm": _implicit(
        "Levenberg-Marquardt on all weights", "chain_rule", source="Levenberg 1944, Marquardt 1963", **FULL
    ),
    # explicit flows
    "odelora-euler": _flow("ODELoRA's balanced flow by explicit Euler", "balanced", **ODELORA),
    "odelora-heun": _flow("ODELoRA's balanced flow by Heun's method", "balanced", "heun", **ODELORA),
    "odelora-rk4": _flow("ODELoRA's balanced flow by Runge-Kutta 4", "balanced", "rk4", **ODELORA),
    "odelora-bogacki-shampine": _flow(
        "ODELoRA's balanced flow by Bogacki-Shampine 3(2), adaptive", "balanced", "bogacki_shampine", **ODELORA
    ),
    "odelora-rkc": _flow("ODELoRA's balanced flow by Runge-Kutta-Chebyshev, 8 stages", "balanced", "rkc", **ODELORA),
    "lora-sgd": _flow("plain LoRA by gradient descent", "chain_rule", source="Hu et al. 2021 (2106.09685)"),
    "lora-plus": _flow(
        "LoRA+ by gradient descent: B moves 16 times as fast as A",
        {"name": "chain_rule", "ratio": 16.0},
        source="Hayou et al. 2024 (2402.12354)",
    ),
    "scaled-gd": _flow(
        "ScaledGD: LoRA with Riemannian preconditioning",
        "block_diagonal",
        source="Tong, Ma & Chi 2021 (2005.08898); Zhang & Pilanci 2024 (2402.02347)",
    ),
    "lora-pro": _flow(
        "LoRA-Pro by gradient descent, in its Sylvester gauge", "lora_pro", source="Wang et al. 2025 (2407.18242)"
    ),
    "reflora": _flow(
        "RefLoRA by gradient descent: the gradient in the balanced factors",
        "refactored",
        source="Zhang et al. 2025 (2505.18877)",
    ),
    "adaprelora": _flow(
        "AdaPreLoRA: Adafactor's metric brought to the factors, with cosine decay",
        "weighted",
        "euler",
        ADAFACTOR,
        True,
        **ADAPRE,
    ),
    # moments, on gradients or on a lift's velocities
    "lora-adam": _whole("plain LoRA by Adam with cosine decay", Adam(), source="Kingma & Ba 2015 (1412.6980)"),
    "full-adam": _whole(
        "all weights by Adam with cosine decay",
        Adam(),
        source="Kingma & Ba 2015 (1412.6980)",
        **{**FULL, "step_size": 1e-3},
    ),
    "lora-momentum": _whole(
        "plain LoRA by heavy-ball momentum with cosine decay", Momentum(), source="Polyak 1964", step_size=1e-3
    ),
    "lora-plus-adam": _whole(
        "LoRA+ by Adam: B's step size is 16 times A's",
        Adam(ratio=16.0),
        source="Hayou et al. 2024 (2402.12354)",
        step_size=1e-3,
    ),
    "scaled-adam": _whole(
        "ScaledAdam: Adam on ScaledGD's velocities",
        Adam(lift="block_diagonal"),
        source="Zhang & Pilanci 2024 (2402.02347)",
    ),
    "lora-pro-adam": _whole(
        "LoRA-Pro by Adam, moments of the factors' velocities",
        Adam(lift="lora_pro"),
        source="Wang et al. 2025 (2407.18242), there with moments of the whole m x n step",
    ),
    "lora-pro-adamw": _whole(
        "LoRA-Pro as published: Adam's moments of the whole m x n step",
        LoRAProAdamW(),
        source="Wang et al. 2025 (2407.18242)",
    ),
    "reflora-adam": _whole("RefLoRA by Adam", Adam(lift="refactored"), source="Zhang et al. 2025 (2505.18877)"),
    "adaprelora-adam": _whole(
        "AdaPreLoRA by Adam, moments of its velocities", Adam(lift="weighted", metric=ADAFACTOR), **ADAPRE
    ),
    "lora-rite": _whole("LoRA-RITE: adaptive in a rotating basis", LoRARITE(), source="Yen et al. 2025 (2410.20625)"),
    "altlora": _whole(
        "AltLoRA: the factors in turn, with momentum", AltLoRA(), source="Yu et al. 2025 (2505.12455)", step_size=1e-3
    ),
    "altlora-plus": _whole(
        "AltLoRA+: the same with second moments", AltLoRA(beta2=0.999), source="Yu et al. 2025 (2505.12455)"
    ),
    "lora-rad": _whole("plain LoRA by RAD: Adam with a speed limit", RAD(), source="Lyu et al. 2024 (2412.02291)"),
    "lora-muon": _whole(
        "plain LoRA by Muon: orthogonalised momentum", Muon(), source="Jordan et al. 2024; Liu et al. 2025 (2502.16982)"
    ),
    "lora-scion": _whole(
        "plain LoRA by Scion: spectral-norm steps", Scion(), source="Pethick et al. 2025 (2502.07529)", step_size=1e-3
    ),
    "lora-soap": _whole("plain LoRA by SOAP", SOAP(), source="Vyas et al. 2024 (2409.11321)"),
    "full-soap": _whole(
        "all weights by SOAP", SOAP(), source="Vyas et al. 2024 (2409.11321)", **{**FULL, "step_size": 3e-3}
    ),
    # geometry of the product
    "riemannian": _whole(
        "fixed-rank Riemannian descent with truncated-SVD retraction",
        Riemannian(),
        **{**FLOW, "source": "Vandereycken 2013 (1209.3834); Absil & Oseledets 2015"},
    ),
    "cayley": _whole(
        "B rotates and stays orthonormal, A is free: the Cayley retraction",
        Cayley(),
        initializer="balanced",
        **{**FLOW, "source": "Wen & Yin 2013; Choromanski et al. 2020 (2006.11421)"},
    ),
    "bug": _whole(
        "the rank-adaptive BUG integrator", BUG(), **{**FLOW, "source": "Ceruti, Kusch & Lubich 2022 (2104.05247)"}
    ),
    "od-lora": _whole(
        "OD-LoRA: through orthonormal bases of the factors' subspaces",
        ODLoRA(),
        initializer="od_lora",
        **{**FLOW, "source": "OD-LoRA 2025 (OpenReview Icte1N6WQK)", "reconstructed": True},
    ),
    # quasi-Newton
    "lora-lbfgs": _whole(
        "plain LoRA by L-BFGS, until its line search stops or its loss creeps",
        LBFGS(),
        source="Liu & Nocedal 1989",
        step_size=1.0,
    ),
    "full-lbfgs": _whole(
        "all weights by L-BFGS, until its line search stops or its loss creeps",
        LBFGS(),
        source="Liu & Nocedal 1989",
        **{**FULL, "step_size": 1.0},
    ),
    "lora-ssbroyden": _whole(
        "plain LoRA by self-scaled Broyden",
        SSBroyden(),
        source="Urban et al. 2025 (2405.04230)",
        step_size=1.0,
        max_steps=5000,
    ),
    "full-ssbroyden": _whole(
        "all weights by self-scaled Broyden",
        SSBroyden(),
        source="Urban et al. 2025 (2405.04230)",
        **{**FULL, "step_size": 1.0, "max_steps": 5000},
    ),
    "lora-spqn": _whole(
        "plain LoRA by SPQN: L-BFGS preconditioned layer by layer",
        SPQN(),
        source="Kopanicakova et al. 2023 (2306.17648)",
        reconstructed=True,
        step_size=1.0,
        max_steps=500,
    ),
    "full-spqn": _whole(
        "all weights by SPQN: L-BFGS preconditioned layer by layer",
        SPQN(),
        source="Kopanicakova et al. 2023 (2306.17648)",
        reconstructed=True,
        **{**FULL, "step_size": 1.0, "max_steps": 500},
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of that name; ValueError names the valid ones."""
    return PRESETS[choose(name, list(PRESETS), what="method")]


def preset_of(method: str | Preset | Optimizer) -> Preset:
    """A preset, given or by name, or what a method or an optimizer that is given itself takes as defaults."""
    if isinstance(method, Preset):
        return method
    if isinstance(method, str):
        return find_preset(method)
    if not isinstance(method, Optimizer):
        raise ValueError(f"method is {method!r}; give a preset's name, a pl.Method or an optimizer")
    if method.implicit or method.adaptive:
        return Preset("", method, initializer=method.initializer, max_steps=80 if method.implicit else 5000)
    return Preset("", method, initializer=method.initializer, step_size=1e-3, max_steps=5000)
