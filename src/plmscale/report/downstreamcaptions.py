"""Titles and captions of the figures of downstream evaluation; rules/report has the same text."""

from __future__ import annotations

DOWNSTREAM_CAPTIONS = {
    "downstream_loss": (
        "Downstream metrics against loss",
        "Each point is a run, with the 95 % interval of its test set; the grey band holds the same "
        "architectures with random weights, and the dashed line is the best baseline that needs no "
        "model. Dotted lines are models from elsewhere, whose loss cannot be compared. ρ is "
        "Spearman's correlation over runs with its 95 % interval. A curve is drawn only where it "
        "foretells runs that were left out of its fit better than a constant does.",
    ),
    "downstream_contacts": (
        "Contact prediction by number of training proteins",
        "Precision of the L/5 strongest pairs against the number of proteins that the readout was "
        "trained on, for a probe of frozen states and for LoRA. Colours are model sizes, CLM solid "
        "and MLM dashed, bars 95 % intervals over test proteins; grey lines are the same "
        "architectures with random weights.",
    ),
    "downstream_identity": (
        "Perplexity by identity to the corpus",
        "Perplexity a residue of held-out proteins by their highest identity to any protein of the "
        "training corpus. Proteins in the bins on the left are least like what was trained on. "
        "Colours are model sizes, bars 95 % intervals over proteins; grey lines are random weights, "
        "black ones baselines. CLM and MLM have different perplexities, which cannot be compared. "
        "Models from elsewhere are left out: what they were trained on is not known.",
    ),
    "downstream_fitness": (
        "Zero-shot fitness by category",
        "Spearman's correlation with measured fitness, by what the assays select for, and their "
        "average. Colours are model sizes, bars 95 % intervals over proteins where there are "
        "several; grey marks are random weights, black strokes baselines.",
    ),
    "downstream_generation": (
        "Generated proteins beside natural ones",
        "Distributions of length, of identity to the nearest natural held-out protein, and the "
        "number of clusters, for generated proteins at each setting beside natural, shuffled and "
        "unigram proteins. A model with good likelihood can still repeat itself: all panels "
        "count together.",
    ),
}
"""Title and caption of each figure of the downstream evaluation."""
