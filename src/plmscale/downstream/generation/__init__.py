"""Proteins that a causal model generates: made, searched, folded, compared with natural ones."""
