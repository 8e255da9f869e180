"""The Go EPP, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.go_epp import HOW_TO_GET, find_go_epp


@pytest.fixture(scope="session")
def go_epp() -> Path:
    found = find_go_epp()
    if found is None:
        pytest.skip(f"the Go EPP is {HOW_TO_GET}")
    return found
