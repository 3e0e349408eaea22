"""Physics-informed networks for families of PDEs, adapted through LoRA factors by discretised differential equations."""

from pinn_lora.about import __version__
from pinn_lora.chain import rac_lora, sd_lora
from pinn_lora.dde.geometry import GeometryDomain
from pinn_lora.dde.model import adapt_model
from pinn_lora.dde.problem import from_deepxde
from pinn_lora.domain import Domain
from pinn_lora.factor_optimizer import FactorOptimizer
from pinn_lora.families.family import Family, solve_family
from pinn_lora.gang import together
from pinn_lora.jets import cos, exp, log, sin, sqrt, tanh
from pinn_lora.lora import LoRALinear, adapt, merge
from pinn_lora.method import Method
from pinn_lora.networks.mlp import MLP
from pinn_lora.networks.modified_mlp import ModifiedMLP
from pinn_lora.networks.pirate_net import PirateNet
from pinn_lora.objective import Objective
from pinn_lora.problem import Problem, data, dirichlet, initial, neumann, periodic, robin
from pinn_lora.rslora import RSLoRA
from pinn_lora.solution import Record, Solution, Status
from pinn_lora.structure import select_layers, select_ranks
from pinn_lora.training import finetune, pretrain

__all__ = [
    "MLP",
    "Domain",
    "FactorOptimizer",
    "Family",
    "GeometryDomain",
    "LoRALinear",
    "Method",
    "ModifiedMLP",
    "Objective",
    "PirateNet",
    "Problem",
    "RSLoRA",
    "Record",
    "Solution",
    "Status",
    "__version__",
    "adapt",
    "adapt_model",
    "cos",
    "data",
    "dirichlet",
    "exp",
    "finetune",
    "from_deepxde",
    "initial",
    "log",
    "merge",
    "neumann",
    "periodic",
    "pretrain",
    "rac_lora",
    "robin",
    "sd_lora",
    "select_layers",
    "select_ranks",
    "sin",
    "solve_family",
    "sqrt",
    "tanh",
    "together",
]
