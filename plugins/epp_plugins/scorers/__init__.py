"""Scorers: one number in [0, 1] per candidate, 1 best."""
