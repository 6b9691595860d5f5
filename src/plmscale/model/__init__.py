"""The transformer and its files on disk."""

from plmscale.model.loading import load, load_weights, save_model
from plmscale.model.parametrization import decay_groups, folded
from plmscale.model.transformer import Transformer, segments_of

__all__ = [
    "Transformer",
    "decay_groups",
    "folded",
    "load",
    "load_weights",
    "save_model",
    "segments_of",
]
