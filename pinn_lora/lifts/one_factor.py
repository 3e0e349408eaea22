"""One factor moves, the other stays where it starts."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from pinn_lora.catalog import choose
from pinn_lora.lifts import Lift, factored, relative_damping
from pinn_lora.ranges import NOT_NEGATIVE, check_ranges

Side = Literal["B", "A"]


@dataclass(frozen=True)
class OneFactor(Lift):
    """side B: dB = -s^-2 g_B (K + lam I)^-1, dA = 0; side A: dA = -s^-2 (S + lam I)^-1 g_A, dB = 0.

    The moving factor's own nearest step to full fine-tuning's, lam = eps tr(S + K) / (2 r). From a zero factor only that one
    can move. Side B is LoRA-FA, preconditioned; a round of RAC-LoRA is one side. Source: Zhang et al., LoRA-FA, 2023 (arXiv
    2308.03303), there without the preconditioner.
    """

    conserves = "the factor that stays"

    side: Side = "B"
    eps: float = 1e-4

    def __post_init__(self):
        choose(self.side, get_args(Side), what="side of one_factor")
        check_ranges(self, eps=NOT_NEGATIVE)

    @property
    def undamped(self):
        return () if self.eps > 0 else ("A",) if self.side == "B" else ("B",)

    def velocity(self, pair, g_B, g_A, metric):
        shift = relative_damping(pair, self.eps) * pair.A.new_ones(len(pair.A)).diag()
        unit = pair.scale**-2
        if self.side == "B":
            return -unit * torch.linalg.lu_solve(*factored(pair.K + shift), g_B, left=False), torch.zeros_like(g_A)
        return torch.zeros_like(g_B), -unit * torch.linalg.lu_solve(*factored(pair.S + shift), g_A)
