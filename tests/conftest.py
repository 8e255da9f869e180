"""For all tests: failures can be printed, programs that are started hear Ctrl-C, and there are control planes to ask for."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.control_plane import ControlPlane
from tests.support.tools import ToolMissingError

_NUMBERS = count(1)

# A slow machine shall fail no property test. What Hypothesis does where CI is set stays.
settings.register_profile("patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A real API server that nobody breaks, for the whole run; work in a `namespace` of it."""
    yield from _started()


@pytest.fixture
def own_control_plane() -> Iterator[ControlPlane]:
    """One that a test may kill, pause, and fill with what others must not see."""
    yield from _started()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A new one of `control_plane`."""
    return control_plane.create_namespace(f"test-{next(_NUMBERS)}")


def _started() -> Iterator[ControlPlane]:
    try:
        prepared = ControlPlane()
    except ToolMissingError as missing:
        pytest.skip(str(missing))
    with prepared as running:
        yield running


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
