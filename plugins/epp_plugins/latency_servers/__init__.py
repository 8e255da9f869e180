"""Clients of the standalone prediction and training servers (`epp-predictor`, or llm-d's)."""
