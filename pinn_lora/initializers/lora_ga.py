"""Singular directions of the first gradient, so that the first step of the product is the gradient's."""

from dataclasses import dataclass

from pinn_lora.initializers import Initializer, top_singular
from pinn_lora.ranges import POSITIVE, check_ranges


@dataclass(frozen=True)
class LoRAGA(Initializer):
    """A = c V_{1..r}^T and B = c U_{r+1..2r} of G = U sigma V^T, c = m^1/4 / gamma^1/2; balanced.

    Then B^T G A^T = 0, and a step along the gradient moves the product by c^2 times G's best part of rank 2r. Source: Wang,
    Yu & Li, LoRA-GA, 2024 (arXiv 2407.05000), its published code's defaults ("ArB2r", "stable", gamma = 16).
    ValueError where 2 r exceeds the layer's smaller side.
    """

    needs_probe = True

    gamma: float = 16.0

    def __post_init__(self):
        check_ranges(self, gamma=POSITIVE)

    def factors(self, site):
        (m, n), r = site.weight.shape, site.rank
        if 2 * r > min(m, n):
            raise ValueError(
                f"lora_ga takes 2 r = {2 * r} singular vectors and a {m} x {n} layer has {min(m, n)}; choose a lower rank, "
                "other targets, or the start lora_one"
            )
        U, _, V = top_singular(site.gradient, 2 * r)
        c = m**0.25 / self.gamma**0.5
        return c * U[:, r:], c * V[:r]
