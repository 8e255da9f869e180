"""How scheduling tells the outside what its plugins cost and when they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from epp.api import Plugin


class Observer(Protocol):
    """Takes the duration and the failures of plugin calls. `point` is the Go EPP's extension point label (`Filter`, ...)."""

    def timer(self, point: str, plugin: Plugin) -> Callable[[float], None]:
        """A function that takes one call's duration in seconds. Asked for once, when a pipeline is built."""
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
