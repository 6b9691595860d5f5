"""How initial spread, learning rate, decay and logits depend on width: standard, or muP.

muP (Yang et al. 2022, "Tensor Programs V", table 8, for Adam) keeps the best learning rate alike
across widths. Relative to a base width w0, at d = w0 equal to the standard parametrization:

                                     initial s.d.      learning rate    multiplier
    qkv, attention_out, mlp's two    x sqrt(w0 / d)    x w0 / d         1
    logits                           1                 1                w0 / d
    embedding, biases, norms         1                 1                1

The fan-in of the MLP's second matrix is f, which grows as d. Scores are divided by the square root
of the head size and not, as there, by the head size: in our grids wider models have more heads,
not larger ones, so that the two differ by a constant.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from plmscale.architecture import Architecture

_HIDDEN = ("qkv.weight", "attention_out.weight", "gate_up.weight", "mlp_out.weight")


def initial_std(arch: Architecture, name: str) -> float:
    """Return the s.d. that the matrix `name` is drawn with.

    What writes into the residual stream gets 1 / sqrt(2 L) of the others' (Radford et al. 2019,
    section 2.3).
    """
    std = arch.init_std
    if name.endswith("_out.weight"):
        std /= math.sqrt(2 * arch.n_layers)
    return std * math.sqrt(arch.width_ratio) if name.endswith(_HIDDEN) else std


def draw(arch: Architecture, name: str, out: Tensor, generator: torch.Generator) -> Tensor:
    """Fill `out`, the parameter `name`, with its initial values; return it.

    Matrices and embeddings are normal with `initial_std`, biases 0, norm weights 1.
    """
    with torch.no_grad():
        if out.ndim == 1:
            return out.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        return out.normal_(0.0, initial_std(arch, name), generator=generator)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the parameters of a Transformer for AdamW, with `weight_decay` and `lr_scale` of each.

    Linear matrices decay, an untied output head among them; norms, biases and embeddings do not.
    The scheduled learning rate is to be multiplied by `lr_scale`: 1, or w0 / d for the hidden
    matrices of muP, whose decay grows by d / w0, so that lr * weight_decay, the share that decays
    in a step, depends on no width. The first group holds the hidden matrices.
    """
    ratio = model.arch.width_ratio
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(ratio, weight_decay / ratio): []}
    for name, parameter in model.named_parameters():
        if name.endswith(_HIDDEN):
            key = (ratio, weight_decay / ratio)
        elif name == "head.weight":
            key = (1.0, weight_decay)
        else:
            key = (1.0, 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), parameters in groups.items()
    ]


def folded(
    weights: dict[str, Tensor], arch: Architecture
) -> tuple[dict[str, Tensor], Architecture]:
    """Return weights and shape of a standard model with the same logits as a muP one.

    The scale of the logits goes into the final norm; other tensors are the same objects. Weights
    without a scale are returned as they are.
    """
    scale = arch.logit_scale
    final = {
        name: tensor * scale
        for name, tensor in weights.items()
        if name.startswith("final_norm.") and scale != 1
    }
    return {**weights, **final}, replace(arch, mup_base_width=0)
