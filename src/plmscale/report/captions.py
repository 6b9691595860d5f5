"""Titles and captions of the figures; rules/report/<figure>.rst hold the same text."""

from __future__ import annotations

CAPTIONS = {
    "isoflop": (
        "IsoFLOP profiles",
        "Validation loss against model size, each colour one compute budget: small models see "
        "many tokens, large ones few. Curves are parabolas in log N fitted to each budget, "
        "diamonds their minima, thick lines below them 95 % bootstrap intervals of the best "
        "size. A red plus is a minimum at or beyond an edge of the sizes, which was not "
        "bracketed. Crosses at the top are runs without a loss; they enter no fit.",
    ),
    "frontiers": (
        "Efficient frontiers",
        "Compute-optimal model size and tokens against compute. Solid lines are the method "
        "the text speaks about, with the 95 % band of its bootstrap; thin lines are the other "
        "methods. Filled marks are the minima of the profiles, open marks minima at an edge.",
    ),
    "exponents": (
        "Exponents by method",
        "Exponents of the best size (left) and the best number of tokens (right) by every "
        "method, with 95 % intervals; an arrow says that an interval goes on outside the "
        "panel. Vertical lines are the values of Cheng et al. 2024, found with 10¹⁸ to 10²¹ "
        "FLOPs.",
    ),
    "parametric": (
        "Parametric law L(N, D)",
        "Above: contours of the fitted loss (nats per token), the runs behind it, and the "
        "efficient frontier that follows from the fit. Below: what the fit leaves "
        "unexplained; a trend there means that the formula does not hold.",
    ),
    "learning_curves": (
        "Learning curves",
        "Validation loss against compute for every run of the grid, coloured by model size. "
        "The dotted envelope is the least loss that any run had reached by a compute. All points "
        "are of the same part of the validation rows; the table of runs has all rows.",
    ),
    "repetition": (
        "Repeating one source against the mix",
        "Validation loss against training tokens when one source is read again and again "
        "(filled), and when the same number of tokens comes from the mix (open). The upper "
        "axis counts the epochs of the repeated source. Both are measured on the same "
        "validation rows.",
    ),
    "transfer": (
        "Transfer against training from scratch",
        "Learning curves against all compute that was paid: the transferred run starts where "
        "its parent's training ended (shaded). Both curves end at the same total compute.",
    ),
    "speed": (
        "Where the time went",
        "Wall time of every run by what it was spent on, the sum over all runs, and training "
        "speed against model size. Runs that shared the machine slow each other's clock.",
    ),
    "corpus_lengths": (
        "Protein lengths",
        "Length distribution of each source after cleaning, training and validation together, "
        "as share of the source's proteins.",
    ),
    "corpus_residues": (
        "Amino acid frequencies",
        "Share of each standard amino acid among the residues of each source after cleaning, "
        "most frequent first.",
    ),
}
"""Title and caption of each figure."""

GROUPS = (
    ("The scaling laws", ("isoflop", "frontiers", "exponents", "parametric")),
    ("Learning curves", ("learning_curves",)),
    ("Repetition and transfer", ("repetition", "transfer")),
    ("The corpus", ("corpus_lengths", "corpus_residues")),
    ("Time", ("speed",)),
)
"""Figures in the order of the report."""
