"""Logs of JSON lines that somebody else is writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def log_records(path: Path) -> list[dict[str, Any]]:
    """Every line that is over, of those that are JSON: the last one may still be on its way, cut within a character."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
