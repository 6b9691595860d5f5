"""Figures of a study. Each is a function from `data.Inputs` to a matplotlib figure.

Nothing is drawn or imported here, so that naming a figure costs nothing.
"""

FIGURES = {
    "isoflop": "isoflop",
    "frontiers": "frontiers",
    "exponents": "frontiers",
    "sensitivity": "sensitivity",
    "holdout": "holdout",
    "parametric": "parametric",
    "isoloss": "isoloss",
    "identifiability": "identifiability",
    "allocation": "allocation",
    "learning_curves": "curves",
    "repetition": "repetition",
    "effective_tokens": "effectivetokens",
    "transfer": "curves",
    "transfer_curves": "transfercurves",
    "pretraining_share": "pretraining",
    "mask_ratio": "maskratio",
    "speed": "speed",
    "corpus_lengths": "corpus",
    "corpus_residues": "corpus",
    "corpus_epochs": "epochs",
    "corpus_duplicates": "heldout",
    "corpus_identity": "heldout",
}
"""Name of each figure and the module of this package whose function of that name draws it."""
