"""Figures of a study. Each is a function from `data.Inputs` to a matplotlib figure.

Nothing is drawn or imported here, so that naming a figure costs nothing.
"""

FIGURES = {
    "isoflop": "isoflop",
    "frontiers": "frontiers",
    "exponents": "frontiers",
    "parametric": "parametric",
    "learning_curves": "curves",
    "repetition": "curves",
    "transfer": "curves",
    "speed": "speed",
    "corpus_lengths": "corpus",
    "corpus_residues": "corpus",
}
"""Name of each figure and the module of this package whose function of that name draws it."""
