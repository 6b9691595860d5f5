"""Scaling laws from a runs table: `fit.fit_laws`, `advise.advise`, `findings.findings`.

Nothing is imported here, so that a command line that only parses its arguments stays fast.
"""
