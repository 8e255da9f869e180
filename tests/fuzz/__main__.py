"""Runs one target under atheris: `python -m tests.fuzz TARGET [libFuzzer options and corpus folders]`."""

from __future__ import annotations

import importlib
import shlex
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

TARGETS = ("frames", "hpack", "protobuf", "conversation", "kv_events")


def main() -> None:
    target = sys.argv[1] if len(sys.argv) > 1 else ""
    if target not in TARGETS:
        sys.exit(f"{target!r} is no target; there are {', '.join(TARGETS)}")
    with atheris.instrument_imports(include=["epp"]):
        module = importlib.import_module(f"tests.fuzz.fuzz_{target}")
    options = sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        program = _program(Path(folder), target) if "-merge=1" in options else sys.argv[0]
        atheris.Setup([program, *options], module.target())
        atheris.Fuzz()


def _program(folder: Path, target: str) -> str:
    """A file that runs this target: to merge, libFuzzer starts its own program again and again."""
    path = folder / f"fuzz-{target}"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tests.fuzz {target} "$@"\n')
    path.chmod(0o755)
    return str(path)


main()
