"""Screeners: narrow the candidates of the whole request, before any profile runs."""
