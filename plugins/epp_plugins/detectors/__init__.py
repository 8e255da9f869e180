"""Saturation detectors: how full the endpoints are; each is a filter too."""
