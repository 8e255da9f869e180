from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from epp.cli.malloc import keep_freed_memory

BODIES = """
import os, resource, sys
from epp.cli.malloc import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory({})
for _ in range(10):
    bodies = [b"x" * 220_000 for _ in range(4)]
    del bodies
before = faults()
for _ in range(100):
    bodies = [b"x" * 220_000 for _ in range(4)]
    del bodies
print(faults() - before)
"""
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(mode: str) -> int:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", BODIES, mode]
    return int(subprocess.run(command, check=True, capture_output=True, env=environ).stdout)


@on_glibc
def test_bodies_that_come_and_go_cost_no_page_faults() -> None:
    assert faults("keep") < 100 < faults("as it is") / 10


@pytest.mark.parametrize("environ", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}])
def test_who_has_said_how_memory_is_to_be_handled_is_obeyed(environ: dict[str, str]) -> None:
    assert not keep_freed_memory(environ)
