"""Where the Go EPP is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support import tools

HOW_TO_GET: Final = f"not found: {tools.GO_EPP.how_to_get}"


def find_go_epp() -> Path | None:
    """The binary, or None where there is none."""
    try:
        return tools.find(tools.GO_EPP)
    except tools.ToolMissingError:
        return None
