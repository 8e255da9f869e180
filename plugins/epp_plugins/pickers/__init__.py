"""Pickers: which of the scored candidates a profile chooses."""
