"""How the director waits: it yields what it waits for, and whoever drives it awaits that.

The path is a generator that runs to its end in plain calls when no plugin has to wait; only then is a task needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias

import msgspec

from epp.extproc.exchange import Destination


class Wait(msgspec.Struct, frozen=True):
    """Something to await; on expiry TimeoutError is thrown into the path. None: no limit."""

    awaitable: Awaitable[Any]
    timeout_s: float | None = None


Path: TypeAlias = Generator[Wait, None, Destination]
Suspend: TypeAlias = Callable[[Path, Wait], None]
"""Takes a path that has to wait; later tells the stream how it ended, or closes the path when nobody wants it any more."""
