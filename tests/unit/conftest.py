"""For unit tests: what is logged is their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


class _NotAsyncio(logging.Filter):
    """asyncio tells of tasks and connections that somebody left when they are collected, in whichever test that is."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name != "asyncio"


@pytest.fixture(autouse=True)
def _nobody_elses_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.filtering(_NotAsyncio()):
        yield
