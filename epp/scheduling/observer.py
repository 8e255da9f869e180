"""How scheduling tells the outside what its plugins cost and when they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from epp.api import Plugin

# Reading the clock and filing each call of each plugin would cost as much as some plugins: one request in so many is timed,
# and stands for all of them.
TIMED_EVERY: Final = 8


class Observer(Protocol):
    """Takes the duration and the failures of plugin calls. `point` is the Go EPP's extension point label (`Filter`, ...)."""

    def timer(self, point: str, plugin: Plugin) -> Callable[[float], None]:
        """A function that takes one call's duration in seconds, which stands for TIMED_EVERY calls."""
        ...

    def plugin_failed(self, point: str, plugin: Plugin, error: Exception) -> None:
        """`plugin` raised at `point`; its contribution is left out."""
        ...


class Unobserved:
    """Observes nothing."""

    def timer(self, point: str, plugin: Plugin) -> Callable[[float], None]:
        return lambda duration_s: None

    def plugin_failed(self, point: str, plugin: Plugin, error: Exception) -> None:
        return None
