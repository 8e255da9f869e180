"""`epp demo` as a person starts it: a real Envoy, real llama.cpp servers, the EPP; and nothing left of them afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from epp.demo.envoy import EnvoyMissingError, find_envoy
from epp.demo.workload import SIZES

pytestmark = pytest.mark.e2e

try:
    find_envoy()
except EnvoyMissingError as missing:
    pytest.skip(str(missing), allow_module_level=True)

REQUESTS = SIZES["small"].requests
DEADLINE_S = 120.0
# How fast it is depends on the machine; what is left behind would stay.
GONE_WITHIN_S = 60.0
# A demo that is still busy when it is told to end, however late the test hears that it has begun.
LONG = ("--size", "normal")


class Demo:
    """One run of the demo, small unless told otherwise. Its environment carries a mark that all its descendants inherit."""

    def __init__(self, process: asyncio.subprocess.Process, mark: bytes, tmp_dir: Path) -> None:
        self.process = process
        self.tmp_dir = tmp_dir
        self._mark = mark
        self.output = ""

    async def wait_for(self, text: str) -> None:
        """Return when a line with `text` has been printed."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.process.stdout.readline()).decode():
                self.output += line
                if text in line:
                    return
        pytest.fail(f"the demo ended without printing {text!r}:\n{self.output}")

    async def end(self, *, within_s: float = DEADLINE_S) -> int:
        """Wait for its end; returns the exit status. `output` then holds everything that it printed."""
        async with asyncio.timeout(within_s):
            rest, _ = await self.process.communicate()
            self.output += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    def running(self, *, with_argument: str = "") -> list[int]:
        """Pids of its processes, the demo's own included."""
        return [
            int(directory.name)
            for directory in Path("/proc").iterdir()
            if directory.name.isdecimal()
            and self._mark in _read(directory / "environ")
            and with_argument.encode() in _read(directory / "cmdline")
        ]

    def all_gone(self) -> bool:
        """Whether all its processes end within a few seconds."""
        give_up_at = time.monotonic() + GONE_WITHIN_S
        while self.running():
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.02)
        return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended meanwhile


def names_in(directory: Path) -> list[str]:
    """What a demo has left in its directory for temporary files."""
    return sorted(path.name for path in directory.iterdir())


class Starter:
    """Starts demos, and kills what is left of them in the end."""

    def __init__(self, tmp_dir: Path) -> None:
        self._tmp_dir = tmp_dir
        self._demos: list[Demo] = []

    async def __call__(self, *flags: str, **environment: str) -> Demo:
        mark = f"LLM_EPP_DEMO_TEST={uuid.uuid4()}"
        name, _, value = mark.partition("=")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "epp", "demo", "--size", "small", *flags),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, name: value, "TMPDIR": str(self._tmp_dir), **environment},
        )
        self._demos.append(Demo(process, mark.encode(), self._tmp_dir))
        return self._demos[-1]

    async def clean_up(self) -> None:
        for demo in self._demos:
            for pid in demo.running():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # Pipes that are left open are closed by the garbage collector, when their loop is gone.
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(demo.process.communicate() for demo in self._demos))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    await starter.clean_up()


def by_run(report: dict[str, Any], run: str) -> list[dict[str, Any]]:
    return [request for request in report["requests"] if request["run"] == run]


async def test_the_demo_answers_every_request_shows_every_pick_and_compares(start: Starter, tmp_path: Path) -> None:
    """One test, because a run takes ten seconds."""
    file = tmp_path / "out.json"
    demo = await start("--engine", "llamacpp", "--json", str(file))

    assert await demo.end() == 0, demo.output
    assert demo.all_gone()
    assert names_in(tmp_path) == [file.name]
    report = json.loads(file.read_bytes())
    assert report["engine"] == "llama.cpp"
    assert report["outcome"] in demo.output.replace("\n", " ").replace("  ", " ")
    check_run(by_run(report, "epp"), report["epp"])
    check_run(by_run(report, "round-robin"), report["round_robin"])
    check_picks(by_run(report, "epp"), report["epp"])
    assert sum(line.startswith(("chat ", "one-off ")) for line in demo.output.splitlines()) == REQUESTS


def check_run(requests: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Every request was answered, by a server that Envoy counted it for, and the engine told its tokens."""
    assert len(requests) == summary["requests"] == sum(summary["per_server"].values()) == REQUESTS
    assert {request["answer"]["status"] for request in requests} == {200}
    assert summary["errors"] == 0
    assert summary["ttft_p90_ms"] >= summary["ttft_p50_ms"] > 0
    assert summary["prompt_tokens"] > summary["cached_tokens"] > 0


def check_picks(requests: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """The EPP's log and Envoy's counters agree, and the EPP saw the conversations grow."""
    picked = Counter(request["server"] for request in requests)
    assert picked == Counter({name: count for name, count in summary["per_server"].items() if count})
    assert all(request["pick"]["candidates"] == 4 for request in requests)
    last_turns = [request for request in requests if "turn 4" in request["answer"]["label"]]
    assert all(request["pick"]["prefix_blocks"] > 0 for request in last_turns)


@pytest.mark.parametrize("moment", ["a language model of", "the EPP serves", "chat 1, turn 1"])
async def test_ctrl_c_ends_everything_at_any_moment(start: Starter, tmp_path: Path, moment: str) -> None:
    demo = await start("--engine", "llamacpp", *LONG)
    await demo.wait_for(moment)
    demo.process.send_signal(signal.SIGINT)

    assert await demo.end(within_s=GONE_WITHIN_S) == 130
    assert "Traceback" not in demo.output
    assert demo.all_gone()
    assert names_in(tmp_path) == []


async def test_sigterm_ends_everything(start: Starter) -> None:
    demo = await start("--engine", "sim", *LONG)
    await demo.wait_for("chat 1, turn 1")
    demo.process.terminate()

    assert await demo.end(within_s=GONE_WITHIN_S) == 143
    assert demo.all_gone()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
async def test_a_demo_that_is_killed_leaves_nothing_running(start: Starter) -> None:
    demo = await start("--engine", "llamacpp", *LONG)
    await demo.wait_for("chat 1, turn 1")
    assert len(demo.running()) == 8  # the demo, 4 servers, the EPP, 2 Envoys
    demo.process.kill()

    assert await demo.end() == -signal.SIGKILL
    assert demo.all_gone()


async def test_a_server_that_dies_ends_the_demo_and_is_named(start: Starter, tmp_path: Path) -> None:
    demo = await start("--engine", "llamacpp", *LONG)
    await demo.wait_for("chat 1, turn 1")
    os.kill(demo.running(with_argument="epp.demo.llamacpp")[0], signal.SIGKILL)

    assert await demo.end() == 1
    assert "ended with status -9 while it was needed" in demo.output
    (logs,) = names_in(tmp_path)
    assert f"the logs are in {tmp_path / logs}" in demo.output
    assert demo.all_gone()


async def test_without_llama_cpp_the_simulator_takes_its_place_and_the_demo_says_why(
    start: Starter, tmp_path: Path
) -> None:
    """As on a platform whose wheel does not load: the import fails in each server."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "xllamacpp.py").write_text("raise ImportError('not for this processor')")
    demo = await start("--engine", "auto", *LONG, PYTHONPATH=str(shadow))
    await demo.wait_for("simulated servers listen")
    demo.process.send_signal(signal.SIGINT)

    assert "llama.cpp cannot run here, so the built-in simulator takes its place" in demo.output
    assert "not for this processor" in demo.output
    assert await demo.end() == 130


async def test_without_envoy_nothing_starts_and_the_demo_says_what_to_install(start: Starter, tmp_path: Path) -> None:
    demo = await start(ENVOY="/nonexistent/envoy")

    assert await demo.end() == 1
    assert demo.output == (
        "epp demo: ENVOY=/nonexistent/envoy: not an executable file; name an Envoy binary or unset it\n"
    )
    assert names_in(tmp_path) == []


async def test_a_configuration_that_the_epp_refuses_is_shown_with_its_problems(start: Starter, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: no-such-scorer}]\n")
    demo = await start("--engine", "sim", "--config", str(config))

    assert await demo.end() == 1
    assert "epp ended with status 2 before it served" in demo.output
    assert "no-such-scorer" in demo.output
    assert demo.all_gone()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the demo prints curl lines")
async def test_keep_leaves_it_up_and_its_curl_lines_work(start: Starter, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    demo = await start("--engine", "sim", "--replicas", "2", "--keep", "--json", str(file))
    await demo.wait_for("Everything is up")
    await demo.wait_for("# without the EPP")
    await demo.wait_for("curl ")
    commands = [line for line in demo.output.splitlines() if line.startswith("curl ")]
    answers = [await run_shell(f"{command} --fail") for command in commands]
    demo.process.send_signal(signal.SIGINT)

    report = json.loads(file.read_bytes())
    assert (report["engine"], list(report["servers"])) == ("simulator", ["s1", "s2"])
    assert [status for status, _ in answers] == [0] * 6
    chat, stream, requests, endpoints, metrics, _ = [body for _, body in answers]
    assert json.loads(chat)["choices"][0]["message"]["content"]
    assert stream.rstrip().endswith("data: [DONE]")
    assert "s1" in endpoints
    assert '"endpoint"' in requests
    assert "inference_objective_request_total" in metrics
    assert await demo.end(within_s=GONE_WITHIN_S) == 0
    assert demo.all_gone()


@pytest.mark.parametrize(
    "flags", [("--replicas", "0"), ("--config", "/nonexistent.yaml"), ("--json", "/nonexistent/out.json")]
)
async def test_a_wrong_command_line_ends_with_status_2(start: Starter, flags: tuple[str, ...]) -> None:
    demo = await start(*flags)

    assert await demo.end() == 2
    assert flags[1] in demo.output


async def run_shell(command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DEADLINE_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
