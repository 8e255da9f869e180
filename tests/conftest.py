"""For all tests: failures can be printed."""

from __future__ import annotations

import gc
from collections.abc import Generator
from typing import Any

import pytest


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
