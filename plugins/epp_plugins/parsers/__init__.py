"""Parsers: what a request body says, how its model name is replaced, and the token usage in its response."""
