"""Routing policies compared on a simulated fleet: the real plugins decide, on a virtual clock, about a recorded trace."""
