"""Where the Go EPP is: `GO_EPP`, then an archive in ../shared/tools (unpacked into the cache, once), then PATH."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from typing import Final

CACHE: Final = Path.home() / ".cache" / "llm-epp" / "tools"
HOW_TO_GET: Final = "not found: build llm-d-router's EPP and set GO_EPP to it, or put go-epp on the PATH"
_TOOLS: Final = Path(__file__).resolve().parents[3] / "shared" / "tools"


def find_go_epp() -> Path | None:
    """The binary, or None where there is none."""
    if named := os.environ.get("GO_EPP"):
        return Path(named)
    for archive in sorted(_TOOLS.glob("go-epp*.tar.xz"), reverse=True):
        target = CACHE / archive.name.removesuffix(".tar.xz")
        if not (target / "go-epp").exists():
            with tarfile.open(archive) as packed:
                packed.extractall(target, filter="data")
        return target / "go-epp"
    found = shutil.which("go-epp")
    return Path(found) if found else None
