"""Cheng et al. 2024: their released logs, their published numbers, and what comes out again."""
