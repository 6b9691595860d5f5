"""Titles and captions of the figures; rules/report/<figure>.rst hold the same text."""

from __future__ import annotations

CAPTIONS = {
    "isoflop": (
        "IsoFLOP profiles",
        "Validation loss against model size, each colour one compute budget: small models see "
        "many tokens, large ones few. Curves are the joint fit (one shape of profile for all "
        "budgets) where it gave a law, else parabolas in log N fitted to each budget; diamonds "
        "are their minima, thick lines below them 95 % bootstrap intervals of the best size. A "
        "red plus is a minimum at or beyond an edge of the sizes, which was not bracketed. "
        "Crosses at the top are runs without a loss and triangles there runs far above all "
        "others, with their loss. Short black strokes, where drawn, are points published by hand; "
        "where none lies on a run, the run it came from was not released.",
    ),
    "frontiers": (
        "Efficient frontiers",
        "Compute-optimal model size and tokens against compute. The thick line is the method "
        "the text speaks about, with the 95 % band of its bootstrap; thin lines are the other "
        "methods. Filled marks are the minima of the profiles, open marks minima at an edge. "
        "Black lines are the published laws (Cheng et al. 2024), drawn where this study has "
        "compute in common with them.",
    ),
    "exponents": (
        "Exponents by method",
        "Exponents of the best size (left) and the best number of tokens (right) by every "
        "method, with 95 % intervals; an arrow says that an interval goes on outside the "
        "panel. Vertical lines are the values of Cheng et al. 2024, found with 10¹⁸ to 10²¹ "
        "FLOPs.",
    ),
    "sensitivity": (
        "How much of the exponent is choice",
        "The exponent a of the best size under every choice an analyst makes, with 95 % "
        "intervals: by method (lines), and within a line by the table that was read, the way "
        "to count FLOPs, and a budget left out. The coloured mark is the study's own choice. "
        "Below: how far each choice alone moves the exponent (standard deviation over its "
        "levels, all else equal), beside the standard error that the data leave. A bar of a "
        "choice longer than the grey one says that the number reported is more a matter of "
        "choice than of data.",
    ),
    "holdout": (
        "Forecasts of larger budgets",
        "Each method was fitted to the small budgets alone. Left: the best size it foretells "
        "for a larger budget over the one seen there; the band is the 95 % interval of what was "
        "seen. Right: the loss it foretells less the loss seen, for that budget and for single "
        "larger runs. Lines are stated 95 % intervals; an open mark differs from what was seen "
        "by more than both intervals allow. Single runs had a size that was chosen, so all "
        "methods but L(N, D) foretell the loss of the best size for their compute.",
    ),
    "parametric": (
        "Parametric law L(N, D)",
        "Above: contours of the fitted loss (nats per token), the runs behind it, and the "
        "efficient frontier that follows from the fit. Below: what the fit leaves "
        "unexplained; a trend there means that the formula does not hold.",
    ),
    "isoloss": (
        "Lines of equal loss",
        "Loss of the parametric law over compute and model size, with D = C / 6N; runs are "
        "filled with the loss that was seen, on the same scale. Each line is nearest to the "
        "left where the size is best for its loss. Red lines are efficient frontiers: of this "
        "law (dashed), and of the method the text speaks about (solid). Where they part, the "
        "formula does not follow the profiles.",
    ),
    "identifiability": (
        "What the data say about L(N, D)",
        "The rise of the fitted objective when one parameter is held at a value and all others "
        "are refitted, in units of the rise that is rejected with 95 % confidence. A curve that "
        "stays low over a wide range means that the data do not tell this parameter. Triangles "
        "and diamonds are places where a search stops short of the least objective; crosses are "
        "the published parameters, which come from another set of points (an envelope of "
        "learning curves); arrows at an edge are such places outside the panel. Heights of "
        "these marks have no meaning.",
    ),
    "allocation": (
        "One size for both objectives",
        "How to split compute (left) and tokens (right) so that one model size is the optimum "
        "of CLM and of MLM, from the law of the method the text speaks about, with 95 % bands. "
        "Dashed parts lie beyond the compute that one of the laws was fitted to. The red line "
        "follows from the published laws.",
    ),
    "learning_curves": (
        "Learning curves",
        "Validation loss against compute for every run of the grid, coloured by model size. "
        "The dotted envelope is the least loss that any run had reached by a compute. Long "
        "curves are drawn as means over parts of equal length in log tokens. In plmscale's own "
        "runs all points are of the same part of the validation rows; the table of runs has "
        "all rows.",
    ),
    "repetition": (
        "Repeating one source against the mix",
        "Loss against training tokens when one source is read again and again (colour), and "
        "when the same number of tokens comes from the mix (grey, dashed). Thick lines are "
        "validation loss, thin lines loss in training where it is known; the upper axis counts "
        "the epochs of the repeated source. A training loss that falls below the validation "
        "loss while that one rises is overfitting; triangles mark the least validation loss of "
        "runs that turn for sure. Numbers are what the repeated source costs at the end, in nats "
        "per token, with 95 % intervals. The two sources differ in more than repetition, and "
        "curves of more than a hundred points are drawn as means over one per cent of the run.",
    ),
    "effective_tokens": (
        "What a repeated token is worth",
        "Above: the loss that repetition adds, by epoch: the gap to a run on fresh tokens less "
        "the gap in the first epoch, which is taken for the difference between the sources. "
        "Lines are the fit of D' = U + U R* (1 − exp(−R / R*)) (Muennighoff et al. 2023); open "
        "marks, after an overfitting run has turned, are not fitted and may leave the panel. "
        "Below: fresh tokens of equal worth with 95 % bands of R*. Where R* has no upper end, "
        "repeats as good as fresh tokens are not ruled out.",
    ),
    "transfer": (
        "Transfer against training from scratch",
        "Learning curves against all compute that was paid: the transferred run starts where "
        "its parent's training ended (shaded). Both curves end at the same total compute.",
    ),
    "transfer_curves": (
        "Transfer at several sizes",
        "Learning curves from scratch (dashed) and after pre-training with the other objective "
        "(solid), a colour a size, against the run's own compute. Circles and squares are the "
        "ends; the arrow leads to what was paid in all, the parent's compute included. Black "
        "lines are power laws L = A / C^a through the ends: from scratch (dashed), after "
        "pre-training (solid), and with the parent paid for (dotted). They pass through runs at "
        "sizes that were chosen, so they are no frontiers of the best size.",
    ),
    "pretraining_share": (
        "What pre-training with the other objective is worth",
        "Left: compute from scratch that reaches the same loss, over all compute that was paid, "
        "against the share spent on pre-training; above one it pays. Line and band are the fit, "
        "a red plus a best share at the edge of those tried, which may lie beyond. Each share "
        "was tried at one size only, so share and size cannot be told apart. Right: the tokens "
        "from scratch that pre-training replaces, by tokens trained afterwards; labels are "
        "model sizes, and lines that leave the panel below include no gain at all. All "
        "intervals are 95 %.",
    ),
    "mask_ratio": (
        "Share of masked residues",
        "Left: validation loss at the end of training against the share of residues masked, "
        "with 95 % intervals of its evaluation. Right: each curve less the one at 15 %, in "
        "which what the runs share of the jitter drops out, since all validate on the same "
        "proteins at the same step. Logs do not say at which ratio the validation proteins "
        "were masked. If it was the run's own, as the rise with the ratio suggests, the losses "
        "are of tasks of different difficulty, and the least loss is no advice on which ratio "
        "trains the best model.",
    ),
    "speed": (
        "Where the time went",
        "Wall time of every run by what it was spent on, the sum over all runs, and training "
        "speed against model size. Runs that shared the machine slow each other's clock.",
    ),
    "corpus_lengths": (
        "Protein lengths",
        "Length distribution of each source after cleaning, training, validation and test "
        "together, as share of the source's proteins. Of a source marked held out nothing is "
        "trained on.",
    ),
    "corpus_residues": (
        "Amino acid frequencies",
        "Share of each standard amino acid among the residues of each source after cleaning, "
        "most frequent first. Of a source marked held out nothing is trained on.",
    ),
    "corpus_epochs": (
        "Epochs of each source",
        "How often the longest run of each token budget reads each source, by mix. At one epoch "
        "(black line) repetition begins; up to about four (red, dashed) repeated text was found "
        "to be worth nearly as much as fresh text (Muennighoff et al. 2023), which nobody has "
        "shown for proteins. Blue is less than one epoch, red more; a star marks a source whose "
        "share was lowered to its max_epochs. The begin and end marks of proteins count as tokens.",
    ),
    "corpus_duplicates": (
        "What became of the records",
        "Each source's records, their number at the right, by what became of them: trained on; "
        "held out for validation and test; left out because they are near a held-out protein; "
        "the same sequence as an earlier record of the source or as one of a source that comes "
        "before it; outside the length limits; with letters that the rule drops or stops inside. Below: for each "
        "source (line), which sources kept the sequences it lost.",
    ),
    "corpus_identity": (
        "How far held-out proteins are from training",
        "Held-out proteins, their number at the right, by their highest identity to any protein "
        "that is trained on, as found by MMseqs2. Of validation nothing reaches the identity of "
        "the split; test holds everything else that was kept from training, at any identity, so "
        "that a loss can be told for each bin.",
    ),
}
"""Title and caption of each figure."""

GROUPS = (
    ("The scaling laws", ("isoflop", "frontiers", "exponents")),
    ("How firm they are", ("sensitivity", "holdout")),
    ("The loss surface", ("parametric", "isoloss", "identifiability")),
    ("One size for both objectives", ("allocation",)),
    ("Learning curves", ("learning_curves",)),
    ("Repetition", ("repetition", "effective_tokens")),
    ("Transfer", ("transfer", "transfer_curves", "pretraining_share")),
    ("Mask ratio", ("mask_ratio",)),
    (
        "The corpus",
        (
            "corpus_lengths",
            "corpus_residues",
            "corpus_duplicates",
            "corpus_identity",
            "corpus_epochs",
        ),
    ),
    ("Time", ("speed",)),
)
"""Figures in the order of the report."""
