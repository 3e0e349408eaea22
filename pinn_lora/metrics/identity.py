"""No preconditioning."""

from dataclasses import dataclass

from pinn_lora.metrics import Metric, Weights


@dataclass(frozen=True)
class Identity(Metric):
    """F = I: full fine-tuning by gradient flow."""

    learns = False

    def weights(self, history, count, B, A):
        return Weights(B.new_ones(B.shape[0]), A.new_ones(A.shape[1]))
