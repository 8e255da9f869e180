"""For all tests: failures can be printed, and programs that are started hear Ctrl-C."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator
from typing import Any

import pytest


def pytest_configure() -> None:
    """A shell starts what runs in the background deaf to SIGINT, and it would hand that on to what tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Collect no garbage while a failure is made into text.

    pytest parses the source of every frame. When a collection frees something meanwhile whose finalizer fails (a process
    or a connection that a failed test has left), its traceback is formatted inside of that, which parses as well, and
    CPython 3.11 then raises `SystemError: AST constructor recursion depth mismatch` (python/cpython#106905, mended in
    3.12.3): an INTERNALERROR of pytest instead of the failure.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return (yield)
    finally:
        if enabled:
            gc.enable()
