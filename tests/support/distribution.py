"""Installs a small pure-Python distribution by hand: modules and a `.dist-info` in one folder, as an installer leaves them."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path


def install_by_hand(project: Path, target: Path) -> None:
    """Copy the modules of `project` to `target` with the entry points that its pyproject.toml declares."""
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = target / f"{declared['name'].replace('-', '_')}-{declared['version']}.dist-info"
    info.mkdir(parents=True)
    for module in project.glob("*.py"):
        shutil.copy(module, target)
    name, version = declared["name"], declared["version"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = declared.get("entry-points", {})
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
