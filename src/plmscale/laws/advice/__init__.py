"""Answers for one budget: size, tokens, loss, hours."""
