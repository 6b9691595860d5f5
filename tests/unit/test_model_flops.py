"""The FLOPs formula against what PyTorch counts in a forward and a backward pass."""

import pytest
import torch
from model_example import loss_and_gradients, packed
from torch.utils.flop_counter import FlopCounterMode

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.model import Transformer

SHAPES = [
    {"n_layers": 2, "d_model": 32, "n_heads": 2, "d_ff": 48},
    {"n_layers": 3, "d_model": 64, "n_heads": 1, "d_ff": 171},
]


@pytest.mark.parametrize("shape", SHAPES, ids=["2x32", "3x64"])
@pytest.mark.parametrize("preset", ["paper", "modern"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("causal", [True, False, torch.tensor([True, False, True])])
def test_matrix_products_are_counted_exactly(preset, shape, tied, causal):
    """What the formula has more are 6 FLOPs for each weight of a norm and each bias.

    PyTorch counts matrix products only; the embedding is a look-up and in neither count.
    """
    arch = Architecture("x", preset=preset, tie_embeddings=tied, **shape)
    model, tokens = Transformer(arch), packed(rows=3, length=24)
    model.initialize(0)
    model.kernel = "eager"
    with FlopCounterMode(display=False) as counter:
        loss_and_gradients(model, tokens, causal)
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert arch.n_params == arch.matrix_params + vectors
    assert counter.get_total_flops() + 6 * vectors * 72 == arch.flops_per_token(24) * 72


def test_the_share_of_norms_and_biases_is_as_documented():
    for arch in PAPER_SIZES.values():
        share = 1 - arch.matrix_params / arch.n_params
        assert 0.8 / arch.d_model < share < 1.25 / arch.d_model
