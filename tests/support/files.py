"""Files that somebody follows."""

from __future__ import annotations

from pathlib import Path


def replace(path: Path, content: str | bytes) -> None:
    """At one stroke, as ConfigMaps, editors and careful scripts do; written in place, the file would first be empty."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    draft.rename(path)
