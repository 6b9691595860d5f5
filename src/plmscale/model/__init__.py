"""The transformer and its files on disk."""

from plmscale.model.loading import load, load_weights, save_model
from plmscale.model.transformer import Transformer, decay_groups, segments_of

__all__ = ["Transformer", "decay_groups", "load", "load_weights", "save_model", "segments_of"]
