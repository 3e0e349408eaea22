"""The leading part of the weight itself."""

from dataclasses import dataclass

from pinn_lora.initializers import Initializer, top_singular


@dataclass(frozen=True)
class PiSSA(Initializer):
    """s B A = the best rank-r part of W0, B = U (sigma / s)^1/2, A = (sigma / s)^1/2 V^T; balanced.

    Source: Meng, Wang & Zhang, PiSSA, 2024 (arXiv 2404.02948).
    """

    def factors(self, site):
        U, sigma, V = top_singular(site.weight, site.rank)
        root = (sigma / site.scale).sqrt()
        return U * root, root[:, None] * V
