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

DOWNSTREAM = {
    "downstream_loss": "downstream",
    "downstream_contacts": "downstreamcurves",
    "downstream_identity": "downstreamcurves",
    "downstream_fitness": "downstreamgroups",
    "downstream_generation": "downstreamgroups",
}
"""The same for a study whose models were evaluated; drawn apart, because training and laws do not
wait for the evaluation."""
