"""The command `epp`."""

from epp.cli.main import main

__all__ = ["main"]
