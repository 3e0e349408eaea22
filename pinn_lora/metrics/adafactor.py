"""Adafactor's rank-one estimate of the gradient's second moments."""

from dataclasses import dataclass
from typing import Literal, get_args

from pinn_lora.catalog import choose
from pinn_lora.metrics import Energies, Metric, Weights
from pinn_lora.ranges import AVERAGE, POSITIVE, check_ranges

Source = Literal["factors", "dense"]


@dataclass(frozen=True)
class Adafactor(Metric):
    """F_ij = P_i Q_j = sqrt(R_i C_j / sum R), R and C moving averages of the gradient's row and column energies.

    R <- beta R + (1 - beta) sum_j G_ij^2, C alike with columns, both divided by 1 - beta^t; P = sqrt(R / sqrt(sum R)),
    Q = sqrt(C / sqrt(sum C)), with `eps` of their mean added to R and C, so that a row without a gradient stays finite.
    F^-1 G does not shrink with G: decay the step size. source: "factors" or "dense", see `Metric`. Source: Shazeer & Stern
    2018 (arXiv 1804.04235); as AdaPreLoRA's metric, reconstructed.
    """

    source: Source = "factors"
    beta: float = 0.999
    eps: float = 1e-6

    def __post_init__(self):
        choose(self.source, get_args(Source), what="source of adafactor")
        check_ranges(self, beta=AVERAGE, eps=POSITIVE)

    def observe(self, history, count, found):
        if history is None:
            history = Energies(found.rows.new_zeros(()), found.columns.new_zeros(()))
        pairs = zip(history, found, strict=True)
        return Energies(*(self.beta * old + (1.0 - self.beta) * new for old, new in pairs))

    def weights(self, history, count, B, A):
        if history is None or not history.rows.any():  # no gradient seen yet
            return Weights(B.new_ones(B.shape[0]), A.new_ones(A.shape[1]))
        unbiased = [energy / (1.0 - self.beta**count) for energy in history]
        return Weights(*(((e + self.eps * e.mean()) / e.sum().sqrt()).sqrt() for e in unbiased))
