"""h2spec, the HTTP/2 conformance suite, against the core in its smallest shell."""

import asyncio
import re

import pytest

from tests.support import h2spec_server, tools

DEADLINE_S = 30
"""Of an answer. No case passes by waiting for it."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(("options", "cases"), [((), 73), (("-S",), 77)], ids=["default", "strict"])
async def test_every_case_of_h2spec_passes(options: tuple[str, ...], cases: int) -> None:
    try:
        tool = tools.find(tools.H2SPEC)
    except tools.ToolMissingError as missing:
        pytest.skip(str(missing))
    application = h2spec_server.EchoApplication()
    server = await h2spec_server.start(application)
    port = h2spec_server.port_of(server)

    async with server:
        process = await asyncio.create_subprocess_exec(
            *(tool, "-h", "127.0.0.1", "-p", str(port), "-o", str(DEADLINE_S), *options), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()

    report = _COLOUR.sub("", output.decode())
    assert f"{cases} tests, {cases} passed, 0 skipped, 0 failed" in report, report[-4000:]
    assert application.crashes == []
