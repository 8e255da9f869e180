"""Choosing endpoints: profiles filter, score and pick; a profile handler decides which profiles run. No I/O, never awaits."""
