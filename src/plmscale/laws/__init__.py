"""Scaling laws from a runs table: fits with intervals, advice, findings. No torch here."""

from plmscale.laws.advise import advise
from plmscale.laws.fit import METHODS, fit_laws

__all__ = ["METHODS", "advise", "fit_laws"]
