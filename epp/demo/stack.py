"""Everything that the demo starts: model servers, the EPP, an Envoy that asks it, and one that uses round robin."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from epp.demo.envoy import Envoy, start_envoy
from epp.demo.llamacpp import start_llamacpp
from epp.demo.picks import LogTail, Serving, parse_line
from epp.demo.processes import Child, ChildError, Children, wait_until
from epp.demo.screen import Screen
from epp.envoy import BootstrapOptions, RoundRobinOptions, Upstream, bootstrap, round_robin_bootstrap

MODEL: Final = "llm-epp-demo"
SLOTS: Final = 8

_SLOT_CONTEXT_TOKENS: Final = 8192
_DEADLINE_S: Final = 60.0
_ENGINE_PARTS: Final = ("xllamacpp", "gguf")
# As much cache as the slots of a llama.cpp server hold of the demo's conversations, so both engines forget alike.
_SIM_BLOCKS: Final = 1024
_SERVER_LIST: Final = "/clusters"

Result = TypeVar("Result")


class EngineMissingError(Exception):
    """The engine that was asked for cannot run here. The message says which part is missing."""


@dataclass(frozen=True, slots=True)
class Engines:
    """The model servers: name → ``host:port``."""

    kind: str
    servers: dict[str, str]
    children: tuple[Child, ...]


@dataclass(frozen=True, slots=True)
class Epp:
    """The EPP as a process of its own, as in production."""

    child: Child
    address: str
    metrics_url: str


@dataclass(frozen=True, slots=True)
class Stack:
    """All that runs."""

    engines: Engines
    epp: Epp
    envoy: Envoy
    round_robin: Envoy

    @property
    def children(self) -> tuple[Child, ...]:
        return (*self.engines.children, self.epp.child, self.envoy.child, self.round_robin.child)


async def start_stack(children: Children, screen: Screen, *, engine: str, replicas: int, config: Path | None) -> Stack:
    """Start every part and return when all serve. Raises ChildError, EngineMissingError or EnvoyMissingError."""
    engines = await _start_engines(children, screen, engine, replicas)
    with screen.step("the EPP") as step:
        epp = await _start_epp(children, engines.servers, config)
        step.done(f"the EPP serves, with {config if config else 'its default configuration'}")
    with screen.step("two Envoys") as step:
        # llama.cpp closes kept connections unannounced; both proxies get the same remedy.
        fresh = engines.kind == "llama.cpp"
        endpoints = tuple(engines.servers.values())
        asking = BootstrapOptions(
            epp=epp.address, upstream=Upstream.OVERRIDE_HOST, endpoints=endpoints, fresh_upstream_connections=fresh
        )
        plain = RoundRobinOptions(endpoints=endpoints, fresh_upstream_connections=fresh)
        workdir = children.log_dir
        envoy, round_robin = await asyncio.gather(
            start_envoy(children, bootstrap(asking), workdir, name="envoy"),
            start_envoy(children, round_robin_bootstrap(plain), workdir, name="envoy-round-robin"),
        )
        step.done("two Envoys listen: one asks the EPP, one uses round robin")
    return Stack(engines, epp, envoy, round_robin)


async def guard(work: Coroutine[Any, Any, Result], children: Iterable[Child]) -> Result:
    """Do `work`, and raise ChildError as soon as one of `children` ends."""
    task = asyncio.ensure_future(work)
    ends = {asyncio.ensure_future(child.process.wait()): child for child in children}
    try:
        await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for end, child in ends.items():
            if end.done() and not task.done():
                raise child.error(f"ended with status {child.returncode} while it was needed")
        return await task
    finally:
        for waiting in (task, *ends):
            waiting.cancel()
        await asyncio.gather(task, *ends, return_exceptions=True)


async def requests_served(envoy: Envoy, servers: dict[str, str]) -> dict[str, int]:
    """How many requests `envoy` has sent to each of `servers`, by name, since its start. Raises aiohttp.ClientError."""
    url = f"http://{envoy.admin_address}{_SERVER_LIST}"
    async with (
        aiohttp.ClientSession(raise_for_status=True) as http,
        http.get(url, params={"format": "json"}) as response,
    ):
        page = msgspec.json.decode(await response.read(), type=_Clusters)
    totals = {host.name: host.total for cluster in page.cluster_statuses for host in cluster.host_statuses}
    return {name: totals.get(address, 0) for name, address in servers.items()}


# --- engines -----------------------------------------------------------------------------------------------------


async def _start_engines(children: Children, screen: Screen, engine: str, replicas: int) -> Engines:
    if engine == "sim":
        return await _start_simulator(children, screen, replicas)
    problem = _missing_part()
    if problem is None:
        try:
            return await _start_llamacpp(children, screen, replicas)
        except ChildError as error:
            if engine == "llamacpp":
                raise
            # Engines come first, so only theirs are running.
            await children.stop()
            problem = str(error)
    if engine == "llamacpp":
        raise EngineMissingError(f"llama.cpp cannot run here: {problem}")
    screen.note(f"llama.cpp cannot run here, so the built-in simulator takes its place: {problem}")
    return await _start_simulator(children, screen, replicas)


def _short(directory: Path) -> str:
    home = Path.home()
    return f"~/{directory.relative_to(home)}" if directory.is_relative_to(home) else str(directory)


def _missing_part() -> str | None:
    missing = [part for part in _ENGINE_PARTS if importlib.util.find_spec(part) is None]
    if not missing:
        return None
    where = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{' and '.join(missing)} not installed (pip install 'llm-epp[demo]', where there is a wheel for {where})"


async def _start_llamacpp(children: Children, screen: Screen, replicas: int) -> Engines:
    with screen.step("a small language model") as step:
        # Imported when needed: it needs gguf, which not every platform has.
        from epp.demo.model import ensure_model

        model = await asyncio.to_thread(ensure_model)
        step.done(f"a language model of {model.stat().st_size / 1e6:.0f} MB, made here, in {_short(model.parent)}")
    with screen.step(f"{replicas} llama.cpp servers") as step:
        started = await start_llamacpp(
            children,
            model,
            count=replicas,
            alias=MODEL,
            slots=SLOTS,
            slot_context_tokens=_SLOT_CONTEXT_TOKENS,
            deadline_s=_DEADLINE_S,
        )
        step.done(f"{replicas} llama.cpp servers are healthy, each with {SLOTS} slots to keep prompts in")
    servers = {f"s{number}": server.address for number, server in enumerate(started, start=1)}
    return Engines("llama.cpp", servers, tuple(server.child for server in started))


async def _start_simulator(children: Children, screen: Screen, replicas: int) -> Engines:
    with screen.step(f"{replicas} simulated servers") as step:
        child = await children.start(
            [
                *(sys.executable, "-m", "epp.sim", "--count", str(replicas), "--model", MODEL, "--json-ready"),
                *("--max-num-seqs", str(SLOTS), "--blocks", str(_SIM_BLOCKS), "--parent-pid", str(os.getpid())),
            ],
            name="simulator",
        )

        async def ready() -> list[str] | None:
            line, complete, _ = child.stdout_path.read_bytes().partition(b"\n")
            return [s.address for s in msgspec.json.decode(line, type=_SimReady).servers] if complete else None

        addresses = await wait_until(child, ready, what="said where it listens", deadline_s=_DEADLINE_S)
        step.done(f"{replicas} simulated servers listen")
    return Engines("simulator", {f"s{n}": address for n, address in enumerate(addresses, start=1)}, (child,))


# --- the EPP -----------------------------------------------------------------------------------------------------


async def _start_epp(children: Children, servers: dict[str, str], config: Path | None) -> Epp:
    child = await children.start(
        [
            *(sys.executable, "-m", "epp", "run", "--listen", "127.0.0.1", "--secure-serving=false"),
            *("--endpoint", ",".join(f"{name}={address}" for name, address in servers.items())),
            *("--grpc-port", "0", "--grpc-health-port", "0", "--metrics-port", "0", "--drain-timeout", "0s"),
            *("--log-format", "json", "-v", "3"),
            *(("--config-file", str(config)) if config else ()),
        ],
        name="epp",
    )
    log = LogTail(child.stderr_path)

    async def serving() -> Serving | None:
        return next((line for line in map(parse_line, log.read()) if isinstance(line, Serving)), None)

    ports = await wait_until(child, serving, what="served", deadline_s=_DEADLINE_S)
    return Epp(child, f"127.0.0.1:{ports.ext_proc_port}", f"http://127.0.0.1:{ports.metrics_port}")


# --- pages -------------------------------------------------------------------------------------------------------


class _SimServer(msgspec.Struct):
    address: str


class _SimReady(msgspec.Struct):
    """What the simulator prints once it listens."""

    servers: list[_SimServer]


class _SocketAddress(msgspec.Struct):
    address: str = ""
    port_value: int = 0


class _Address(msgspec.Struct):
    socket_address: _SocketAddress = msgspec.field(default_factory=_SocketAddress)


class _Stat(msgspec.Struct):
    name: str
    value: str = "0"


class _Host(msgspec.Struct):
    address: _Address
    stats: list[_Stat] = []

    @property
    def name(self) -> str:
        return f"{self.address.socket_address.address}:{self.address.socket_address.port_value}"

    @property
    def total(self) -> int:
        return next((int(stat.value) for stat in self.stats if stat.name == "rq_total"), 0)


class _Cluster(msgspec.Struct):
    host_statuses: list[_Host] = []


class _Clusters(msgspec.Struct):
    """The part of Envoy's /clusters?format=json that is read here."""

    cluster_statuses: list[_Cluster] = []
