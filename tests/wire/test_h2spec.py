"""h2spec, the HTTP/2 conformance suite, against the core in its smallest shell."""

import asyncio
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.support import h2spec_server

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path.home() / ".cache" / "llm-epp"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def find_h2spec() -> str | None:
    """`H2SPEC`, then the archive in ../shared/tools (unpacked into the cache), then PATH."""
    named = os.environ.get("H2SPEC")
    if named:
        return named
    for archive in sorted((ROOT.parent / "shared" / "tools").glob("h2spec-*-linux-amd64.tar.xz")):
        target = CACHE / archive.name.removesuffix(".tar.xz")
        if not (target / "h2spec").exists():
            with tarfile.open(archive) as packed:
                packed.extractall(target, filter="data")
        return str(target / "h2spec")
    return shutil.which("h2spec")


@pytest.mark.parametrize(("options", "cases"), [((), 73), (("-S",), 77)], ids=["default", "strict"])
async def test_every_case_of_h2spec_passes(options: tuple[str, ...], cases: int) -> None:
    tool = find_h2spec()
    if tool is None:
        pytest.skip("h2spec not found: set H2SPEC to the binary of https://github.com/summerwind/h2spec (1.5.0)")
    application = h2spec_server.EchoApplication()
    server = await h2spec_server.start(application)
    port = h2spec_server.port_of(server)

    async with server:
        process = await asyncio.create_subprocess_exec(
            tool, "-h", "127.0.0.1", "-p", str(port), *options, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()

    report = _COLOUR.sub("", output.decode())
    assert f"{cases} tests, {cases} passed, 0 skipped, 0 failed" in report, report[-4000:]
    assert application.crashes == []
