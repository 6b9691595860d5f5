"""Perplexity in and out of distribution: proteins, controls, bins, intervals."""
