"""`python -m epp.sim` as a process: what it prints, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "epp.sim", *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready(process: Process) -> dict[str, list[dict[str, str]]]:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = await process.stdout.readline()
    told: dict[str, list[dict[str, str]]] = json.loads(line)
    return told


async def first_token_s(url: str) -> float:
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(url) as client:
        started_s = loop.time()
        async with client.post("/v1/completions", json={"prompt": "x" * 400, "max_tokens": 1}) as response:
            assert response.status == 200
            await response.read()
        return loop.time() - started_s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_servers_are_ready_when_told_and_end_cleanly_on_a_signal(number: signal.Signals) -> None:
    async with command("--count", "3", "--json-ready", "--model", "m", "--lora", "a", "--slow", "2=20") as process:
        servers = (await ready(process))["servers"]
        quick, slow = await first_token_s(servers[0]["url"]), await first_token_s(servers[2]["url"])
        async with aiohttp.ClientSession(servers[1]["url"]) as client, client.get("/v1/models") as response:
            models = [model["id"] for model in (await response.json())["data"]]
        process.send_signal(number)
        async with asyncio.timeout(60):
            _, errors = await process.communicate()

        assert [server["name"] for server in servers] == ["sim-0", "sim-1", "sim-2"]
        assert len({server["address"] for server in servers}) == 3
        assert models == ["m", "a"]
        assert quick >= 0.02
        assert slow >= 0.4
        assert (process.returncode, errors) == (0, b"")


async def test_a_signal_ends_requests_in_progress_too() -> None:
    async with command("--json-ready") as process:
        url = (await ready(process))["servers"][0]["url"]
        body = {"prompt": "a", "max_tokens": 100_000, "stream": True}
        async with aiohttp.ClientSession(url) as client, client.post("/v1/completions", json=body) as response:
            await response.content.readline()
            process.terminate()
            async with asyncio.timeout(60):
                _, errors = await process.communicate()

        assert (process.returncode, errors) == (0, b"")


async def test_it_ends_when_its_parent_has_ended() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)
    async with command("--json-ready", "--parent-pid", str(parent.pid)) as process:
        await ready(process)
        await parent.communicate(b"\n")
        async with asyncio.timeout(60):
            await process.wait()

        assert process.returncode == 0


async def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with command("--port", str(taken.getsockname()[1])) as process:
            _, errors = await process.communicate()

    assert process.returncode == 1
    assert errors.startswith(b"epp sim: cannot listen")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--slow", "0"], b"--slow"),
        (["--slow", "1=2"], b"--slow"),
        (["--count", "0"], b"--count"),
        (["--blocks", "1"], b"blocks"),
        (["--speed", "0"], b"speed"),
    ],
)
async def test_arguments_that_make_no_sense_are_named(arguments: list[str], named: bytes) -> None:
    async with command(*arguments) as process:
        _, errors = await process.communicate()

    assert process.returncode == 2
    assert errors.startswith(b"epp sim: ")
    assert named in errors


async def test_help_tells_every_group_of_flags() -> None:
    async with command("--help") as process:
        text, _ = await process.communicate()

    assert process.returncode == 0
    for flag in (b"--count", b"--prefill-ms-per-1k-tokens", b"--max-num-seqs", b"--lora", b"--slow", b"--parent-pid"):
        assert flag in text
