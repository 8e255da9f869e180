"""Tells which parameter a ConfigError is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from epp.api import ConfigError


@contextmanager
def about(parameter: str) -> Iterator[None]:
    """A ConfigError that is raised within begins with `parameter`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{parameter}: {error}") from error
