"""plmscale: how large a protein language model, on how many tokens, for a given compute budget?"""

__version__ = "0.1.0"
