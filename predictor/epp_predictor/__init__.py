"""Latency prediction for model servers. Does not import epp."""
