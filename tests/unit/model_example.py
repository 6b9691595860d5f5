"""A small model and packed rows for the tests of plmscale.model."""

import torch
from torch.nn import functional

from plmscale.architecture import Architecture
from plmscale.corpus.alphabet import BOS, EOS
from plmscale.model import Transformer, segments_of

SHAPE = {"name": "2x32", "n_layers": 2, "d_model": 32, "n_heads": 2, "d_ff": 48}


def build(preset="paper", dtype=torch.float32, seed=3, **changes):
    arch = Architecture(**{**SHAPE, "preset": preset, **changes})
    model = Transformer(arch)
    model.initialize(seed)
    with torch.no_grad():  # biases and norms away from 0 and 1, so that a test sees them
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(9)))
    return model.to(dtype)


def packed(rows=3, length=24, seed=0):
    tokens = torch.randint(4, 24, (rows, length), generator=torch.manual_seed(seed))
    tokens[:, 9], tokens[:, 10] = EOS, BOS
    tokens[1, 17], tokens[1, 18] = EOS, BOS
    return tokens


def loss_and_gradients(model, tokens, causal, within=True):
    """Mean nats of predicting each token's left neighbour, and the gradient by parameter name."""
    model.zero_grad()
    logits = model(tokens, causal=causal, segments=segments_of(tokens) if within else None)
    loss = functional.cross_entropy(logits.flatten(0, 1).float(), tokens.roll(1, 1).flatten())
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}
