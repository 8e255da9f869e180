"""Admitters: refuse requests once all is known about them."""
