"""The Containerfile's steps, run in clean Debian roots, and the picker inside as it would run in a container.

Takes minutes and fetches a Debian and all packages, so it is asked for: PROVE_CONTAINER=1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.prove_container import missing

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(1800)
def test_the_containerfile_builds_and_its_picker_is_ready_without_rights(tmp_path: Path) -> None:
    if not os.environ.get("PROVE_CONTAINER"):
        pytest.skip("takes minutes and downloads; PROVE_CONTAINER=1 asks for it")
    if problems := missing():
        pytest.skip("; ".join(problems))

    done = subprocess.run(
        [sys.executable, "scripts/prove_container.py", "--root", str(tmp_path / "roots")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["added_mb"] < 500
    assert report["ready_s"] < 60
