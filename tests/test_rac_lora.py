"""RAC-LoRA's rounds: each draws its frozen factor anew, which is what lifts the rank of the change."""

import itertools
import math

import pytest
import torch
from pinn_lora.problems.burgers import Burgers

import pinn_lora as pl
from pinn_lora import chain
from pinn_lora.lora import LoRALinear


@pytest.fixture(scope="module")
def base():
    return pl.pretrain(Burgers(nu=0.2 / math.pi), width=8, depth=3, max_steps=60, points=500)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_rank_of_the_change_grows_with_every_round(base, seed, monkeypatch):
    """Four rounds of rank 1 change an 8 x 8 layer by rank 4, and no two rounds share a frozen factor: a factor that stayed the
    same on each side would give 2. Singular values above 1e-8 of the largest count."""
    frozen, real = [], chain.finetune

    def finetune(*given, **options):
        found = real(*given, **options)
        side = options["method"].lift.side
        for name, layer in found.network.named_modules():
            if isinstance(layer, LoRALinear):
                kept = (layer.A if side == "B" else layer.B.T).detach()
                frozen.append((name, kept / kept.norm()))
        return found

    monkeypatch.setattr(chain, "finetune", finetune)
    tuned = pl.rac_lora(base, Burgers(nu=0.1 / math.pi), rounds=4, rank=1, max_steps=60, points=300, seed=seed)
    for name in ("layers.1", "layers.2"):
        change = tuned.network.get_submodule(name).weight - base.network.get_submodule(name).weight
        assert torch.linalg.matrix_rank(change.detach(), rtol=1e-8) == 4
        kept = [factor for layer, factor in frozen if layer == name]
        assert len(kept) == 4
        assert all(float((a @ b.T).abs().max()) < 0.99 for a, b in itertools.combinations(kept, 2))
