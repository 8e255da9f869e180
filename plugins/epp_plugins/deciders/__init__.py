"""Deciders: whether a stage of a request runs on an endpoint of its own."""
