"""Filters: which candidates stay in a profile."""
