"""Memory of a run before it starts, and how to lay it out: pure arithmetic, no torch."""

from plmscale.memory.layout import Layout, choose
from plmscale.memory.predict import Memory, predict

__all__ = ["Layout", "Memory", "choose", "predict"]
