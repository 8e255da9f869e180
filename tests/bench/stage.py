"""What one group of scenarios runs on: model servers, and for every column its server behind its own Envoy.

All of them run for as long as the stage does, but only the one that is measured is awake: the others are stopped (SIGSTOP),
so that their scraping and housekeeping take nothing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from epp.demo.envoy import Envoy, start_envoy
from epp.demo.processes import Child, ChildError, Children, wait_for_tcp, wait_until
from tests.bench.columns import Column, Place
from tests.bench.gateway import asking, bare
from tests.bench.load import PATH, Load
from tests.bench.process import Meter
from tests.support.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
VLLM_PAGE: Final = ROOT / "tests" / "fixtures" / "metrics" / "vllm-0.32-loaded.txt"
_START_S: Final = 30.0
_HELLO: Final = {"model": "m", "prompt": "hello"}
_WARM_UP_REQUESTS: Final = 40
# The families that the default profile reads, so that scraping costs little beside what is measured.
_SMALL_PAGE: Final = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.05
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="20000"} 1.0
"""
_CONFIG: Final = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: file-discovery
  parameters: {{path: {endpoints}}}
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: max-score-picker
- type: single-profile-handler
schedulingProfiles:
- name: default
  plugins:
  - {{pluginRef: queue-scorer, weight: 2}}
  - {{pluginRef: kv-cache-utilization-scorer, weight: 2}}
  - {{pluginRef: prefix-cache-scorer, weight: 3}}
  - {{pluginRef: max-score-picker}}
dataLayer:
  discovery: {{pluginRef: file-discovery}}
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """How many model servers there are, what their metrics pages look like, how often they are read."""

    key: str
    endpoints: int
    vllm_page: bool
    refresh_ms: int


Sample = dict[str, float]
"""One measurement: metric → value."""


@dataclass(frozen=True, slots=True)
class Running:
    """A column at work. `meter` is None for Envoy alone."""

    column: Column
    meter: Meter | None
    gateway: Envoy
    gateway_meter: Meter

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Runs within the block, sleeps outside of it."""
        if self.meter is None:
            yield
            return
        self.meter.resume()
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.meter.pause()

    def cpu_s(self) -> tuple[float, float]:
        """Of the server and of its Envoy."""
        return self.meter.cpu_s() if self.meter else 0.0, self.gateway_meter.cpu_s()

    async def messages(self) -> int:
        """ext_proc messages that Envoy has sent so far."""
        return sum((await self.gateway.stats("ext_proc.stream_msgs_sent$")).values())


class Stage:
    """Measures columns in one setting. Use `open_stage`."""

    def __init__(
        self, workdir: Path, model_servers: str, running: Sequence[Running], failed: Mapping[str, ChildError]
    ) -> None:
        self.running = {one.column.key: one for one in running}
        self.failed = failed
        """Columns that did not start, and why."""
        self._workdir = workdir
        self._model_servers = model_servers

    async def under_load(self, key: str, load: Load, *, bodies: str, scale: float, salt: str) -> Sample:
        """Runs `load` through the column's Envoy and says what each request cost."""
        one = self.running[key]
        with one.awake():
            # Nothing is measured until the server has caught up on what it slept through.
            await _warm_up(self._url(one, bodies))
            await asyncio.sleep(one.column.settle_s)
            messages, (cpu_s, gateway_s) = await one.messages(), one.cpu_s()
            outcome = await load.run(self._url(one, bodies), self._workdir, scale=scale, salt=salt)
            after_s, gateway_after_s = one.cpu_s()
            messages = await one.messages() - messages
            requests = outcome.requests
            sample = {
                "requests": requests,
                "rps": requests / outcome.duration_s,
                "p50_us": outcome.p50_us,
                "p99_us": outcome.p99_us,
                "gateway_cpu_us": (gateway_after_s - gateway_s) / requests * 1e6,
            }
            if one.meter is not None:
                sample |= {
                    "cpu_us": (after_s - cpu_s) / requests * 1e6,
                    "messages": messages / requests,
                    "rss_mib": one.meter.rss_mib(),
                }
            return sample

    async def idle(self, key: str, *, settle_s: float, duration_s: float) -> Sample:
        """What the column's server does without any request."""
        one = self.running[key]
        assert one.meter is not None
        with one.awake():
            await asyncio.sleep(settle_s)
            clock = asyncio.get_running_loop().time
            pages, cpu_s, started = await self._pages(), one.meter.cpu_s(), clock()
            await asyncio.sleep(duration_s)
            cpu_s, elapsed_s = one.meter.cpu_s() - cpu_s, clock() - started
            pages = await self._pages() - pages
            return {
                "cores": cpu_s / elapsed_s,
                "pages_per_s": pages / elapsed_s,
                "page_cpu_us": cpu_s / max(1, pages) * 1e6,
                "rss_mib": one.meter.rss_mib(),
            }

    def _url(self, one: Running, bodies: str) -> str:
        return f"http://{one.gateway.listeners[bodies]}"

    async def _pages(self) -> int:
        async with aiohttp.ClientSession() as session, session.get(f"{self._model_servers}/bench/counts") as answer:
            return int((await answer.json())["pages"])


@asynccontextmanager
async def open_stage(setting: Setting, columns: Sequence[Column], workdir: Path) -> AsyncIterator[Stage]:
    """Starts everything, with files in `workdir`, which exists; each column has answered a request through its Envoy.

    Raises EnvoyMissingError, and ChildError where the model servers do not start.
    """
    async with Children(workdir) as children:
        ports = await _start_model_servers(children, setting, workdir)
        endpoints = [f"127.0.0.1:{port}" for port in ports]
        config = _write_config(ports, workdir)
        running: list[Running] = []
        failed: dict[str, ChildError] = {}
        try:
            for column in columns:
                try:
                    running.append(await _start_column(children, column, setting, endpoints, config, workdir))
                except ChildError as error:
                    failed[column.key] = error
            yield Stage(workdir, f"http://{endpoints[0]}", running, failed)
        finally:
            for one in running:
                if one.meter is not None:
                    with contextlib.suppress(ProcessLookupError):
                        one.meter.resume()  # what is stopped does not hear SIGTERM
            await children.stop(grace_s=0.5)


async def _start_column(
    children: Children, column: Column, setting: Setting, endpoints: Sequence[str], config: Path, workdir: Path
) -> Running:
    server: Child | None = None
    gateway_config = bare(endpoints)
    try:
        if column.command is not None:
            place = Place(free_port(), free_port(), free_port(), endpoints, config, setting.refresh_ms)
            server = await children.start(column.command(place), name=column.key, cwd=ROOT)
            await wait_for_tcp(server, "127.0.0.1", place.grpc_port, deadline_s=_START_S)
            gateway_config = asking(f"127.0.0.1:{place.grpc_port}", endpoints)
        gateway = await start_envoy(children, gateway_config, workdir, name=f"envoy-{column.key}")
        for address in gateway.listeners.values():
            await _wait_for_answer(server or gateway.child, f"http://{address}{PATH}")
    except ChildError:
        if server is not None:
            await server.stop()  # or it would go on beside the others
        raise
    meter = Meter(server.pid) if server is not None else None
    if meter is not None:
        meter.pause()
    return Running(column, meter, gateway, Meter(gateway.child.pid))


async def _warm_up(gateway: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(_WARM_UP_REQUESTS):
            async with session.post(f"{gateway}{PATH}", json=_HELLO) as answer:
                await answer.read()


async def _wait_for_answer(child: Child, url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def probe() -> bool | None:
            async with session.post(url, json=_HELLO) as answer:
                return True if answer.status == 200 else None

        await wait_until(child, probe, what=f"answered a completion on {url}", deadline_s=_START_S)


async def _start_model_servers(children: Children, setting: Setting, workdir: Path) -> list[int]:
    page = VLLM_PAGE
    if not setting.vllm_page:
        page = workdir / "page.txt"
        page.write_text(_SMALL_PAGE)
    command = [sys.executable, "-m", "tests.bench.upstream", "--endpoints", str(setting.endpoints), "--page", str(page)]
    child = await children.start(command, name="model-servers", cwd=ROOT)

    async def ports() -> list[int] | None:
        line = child.stdout_path.read_text()
        return list(json.loads(line)["ports"]) if line.endswith("\n") else None

    return await wait_until(child, ports, what="said its ports", deadline_s=_START_S)


def _write_config(ports: Sequence[int], workdir: Path) -> Path:
    """The EndpointPickerConfig for every EPP, and the list of endpoints that it names."""
    entries = [{"name": f"server-{i}", "address": "127.0.0.1", "port": str(port)} for i, port in enumerate(ports)]
    endpoints, config = workdir / "endpoints.yaml", workdir / "config.yaml"
    endpoints.write_text(json.dumps({"endpoints": entries}))
    config.write_text(_CONFIG.format(endpoints=endpoints))
    return config
