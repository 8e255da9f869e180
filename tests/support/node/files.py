"""Files of a volume on disk, written as a kubelet does: all at once, by replacing one symbolic link."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_CURRENT: Final = "..data"


def write_atomically(folder: Path, files: Mapping[str, bytes], *, mode: int, owner: int = -1, group: int = -1) -> bool:
    """Whether anything changed. Readers see all of the old files or all of the new ones."""
    if _present(folder) == dict(files):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    version = folder / f"..{time.time_ns()}"
    for name, content in files.items():
        path = version / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        os.chown(path, owner, group)
    version.mkdir(exist_ok=True)
    version.chmod(0o755)
    current = folder / _CURRENT
    before = current.resolve() if current.is_symlink() else None
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.rename(current)
    tops = {name.split("/")[0] for name in files}
    for top in tops:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(f"{_CURRENT}/{top}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    if before is not None:
        shutil.rmtree(before)
    return True


def _present(folder: Path) -> dict[str, bytes] | None:
    current = folder / _CURRENT
    if not current.is_symlink():
        return None
    return {str(path.relative_to(current)): path.read_bytes() for path in current.rglob("*") if path.is_file()}
