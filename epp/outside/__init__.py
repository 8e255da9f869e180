"""I/O for plugins: what `Handle.outside` offers (see `epp.api.outside`)."""

from epp.outside.world import World

__all__ = ["World"]
