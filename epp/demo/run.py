"""One demo from its first process to its last: start everything, play the load twice, compare, clean up."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from epp.demo.client import Answer, Target, ask, play
from epp.demo.commands import commands
from epp.demo.envoy import Envoy, find_envoy
from epp.demo.picks import Joiner, LogTail, Pick, parse_line
from epp.demo.processes import Children
from epp.demo.screen import Screen
from epp.demo.stack import MODEL, Stack, guard, requests_served, start_stack
from epp.demo.summary import Summary, outcome, summarize
from epp.demo.workload import SIZES, Size, Turn, make_load

_POLL_S: Final = 0.03
_LAST_PICKS_WITHIN_S: Final = 10.0
_WARM_UP: Final = Turn("warm-up", 0.0, "good morning", streamed=True, max_tokens=2)


class LoadError(Exception):
    """Requests of the demo's load failed. The message says how many and shows one."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says."""

    engine: str = "auto"
    replicas: int = 4
    size: str = "normal"
    keep: bool = False
    config: Path | None = None
    json_path: Path | None = None
    log_dir: Path | None = None


class Request(msgspec.Struct):
    """One request in the report."""

    run: str
    answer: Answer
    server: str | None = None
    pick: Pick | None = None


class Report(msgspec.Struct):
    """What --json writes."""

    engine: str
    size: str
    servers: dict[str, str]
    epp: Summary
    round_robin: Summary
    outcome: str
    requests: list[Request]


async def run_demo(options: DemoOptions, screen: Screen) -> None:
    """Run it all. Whatever happens, nothing that was started is left when this returns or raises.

    Raises EnvoyMissingError, EngineMissingError, ChildError, LoadError, aiohttp.ClientError or OSError; then the logs stay
    where they are, and the screen has said where that is.
    """
    # Before anything starts: without it there is no demo.
    find_envoy()
    with _logs(options.log_dir, screen) as log_dir:
        async with Children(log_dir) as children:
            stack = await start_stack(
                children, screen, engine=options.engine, replicas=options.replicas, config=options.config
            )
            report = await guard(_measure(stack, options.size, screen), stack.children)
            if options.json_path is not None:
                options.json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
            _raise_failures(report)
            if options.keep:
                await guard(_keep(stack, screen), stack.children)


async def _measure(stack: Stack, size_name: str, screen: Screen) -> Report:
    size = SIZES[size_name]
    servers = stack.engines.servers
    screen.name_servers(servers)
    await _warm_up(stack)
    screen.blank()
    screen.title(f"The EPP picks: {_described(size)}")
    screen.pick_header()
    before = await requests_served(stack.envoy, servers)
    answers, picks = await _play_with_picks(stack, size, screen)
    epp = summarize(answers, _since(before, await requests_served(stack.envoy, servers)))

    screen.blank()
    screen.title("The same load, round robin")
    before = await requests_served(stack.round_robin, servers)
    plain = await _play_plain(stack, size, screen)
    round_robin = summarize(plain, _since(before, await requests_served(stack.round_robin, servers)))

    screen.comparison(epp, round_robin)
    sentence = outcome(epp, round_robin)
    screen.sentence(sentence)
    names = _names(servers)
    requests = [
        Request("epp", answer, names.get(pick.endpoint) if pick else None, pick)
        for answer, pick in ((answer, picks.get(answer.id)) for answer in answers)
    ]
    requests += [Request("round-robin", answer) for answer in plain]
    return Report(stack.engines.kind, size_name, servers, epp, round_robin, sentence, requests)


async def _warm_up(stack: Stack) -> None:
    """A few short requests through both Envoys, so that neither load pays for what happens once: every server gets one."""
    async with aiohttp.ClientSession() as http:
        for envoy in (stack.envoy, stack.round_robin):
            target = Target(envoy.url, MODEL, "warm-up")
            for server in stack.engines.servers:
                messages = [{"role": "user", "content": f"{_WARM_UP.text} {server}"}]
                await ask(http, target, _WARM_UP, request_id=f"warm-up-{server}", late_ms=0.0, messages=messages)


async def _play_with_picks(stack: Stack, size: Size, screen: Screen) -> tuple[list[Answer], dict[str, Pick]]:
    """Play the load through the EPP's Envoy and show each request as soon as both its ends have told of it."""
    names = _names(stack.engines.servers)
    load = make_load(size, salt="first")
    with screen.progress("through the EPP", size.requests) as advance:

        def show(answer: Answer, pick: Pick) -> None:
            screen.pick(answer, pick, names.get(pick.endpoint, pick.endpoint))
            advance()

        joiner = Joiner(show)
        played = asyncio.Event()
        following = asyncio.create_task(_follow(LogTail(stack.epp.child.stderr_path), joiner, played))
        try:
            answers = await play(load, _target(stack.envoy, "epp"), on_answer=joiner.add_answer)
            played.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(following, _LAST_PICKS_WITHIN_S)
        finally:
            following.cancel()
        for answer in joiner.unpaired:
            show(answer, Pick(answer.id))
    return answers, joiner.picks


async def _play_plain(stack: Stack, size: Size, screen: Screen) -> list[Answer]:
    load = make_load(size, salt="other")
    with screen.progress("round robin", size.requests) as advance:
        return await play(load, _target(stack.round_robin, "round-robin"), on_answer=lambda _: advance())


async def _follow(log: LogTail, joiner: Joiner, played: asyncio.Event) -> None:
    """Read picks until the load has been played and every answer has its pick."""
    while not (played.is_set() and not joiner.unpaired):
        for line in map(parse_line, log.read()):
            if isinstance(line, Pick):
                joiner.add_pick(line)
        await asyncio.sleep(_POLL_S)


async def _keep(stack: Stack, screen: Screen) -> None:
    """Show what to try, and wait for Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    screen.blank()
    screen.title("Everything is up. Ctrl-C stops it. In another terminal:")
    screen.commands(
        commands(
            envoy_url=stack.envoy.url,
            round_robin_url=stack.round_robin.url,
            metrics_url=stack.epp.metrics_url,
            log=stack.epp.child.stderr_path,
            model=MODEL,
        )
    )
    await stop.wait()
    screen.blank()
    screen.note("stopping")


@contextlib.contextmanager
def _logs(chosen: Path | None, screen: Screen) -> Iterator[Path]:
    """The directory for logs: kept if it was chosen, or if something fails; else removed in the end."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    directory = Path(tempfile.mkdtemp(prefix="llm-epp-demo-"))
    try:
        yield directory
    except Exception:
        screen.note(f"the logs are in {directory}")
        raise
    except BaseException:
        # Ctrl-C: nobody will look for them.
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def _raise_failures(report: Report) -> None:
    failed = [request for request in report.requests if request.answer.error]
    if failed:
        first = failed[0]
        raise LoadError(
            f"{len(failed)} of {len(report.requests)} requests failed, "
            f"the first one ({first.run}, {first.answer.label}) with: {first.answer.error}"
        )


def _target(envoy: Envoy, run: str) -> Target:
    return Target(envoy.url, MODEL, run)


def _names(servers: dict[str, str]) -> dict[str, str]:
    return {address: name for name, address in servers.items()}


def _since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


def _described(size: Size) -> str:
    return (
        f"{size.conversations} conversations of {size.turns} turns, {size.one_offs} one-off prompts, "
        f"in {size.span_s:g} seconds"
    )
