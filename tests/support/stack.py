"""Real parts for end-to-end tests: an EPP process, an Envoy in front of it, and what one wants to ask them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from epp.demo.envoy import Envoy, start_envoy
from epp.demo.processes import Child, Children, wait_until
from epp.envoy.bootstrap import bootstrap
from epp.envoy.options import BootstrapOptions
from tests.support.logs import log_records

CUT_OFF: Final = 0
"""In place of the status of an answer that was not whole."""


class Epp(msgspec.Struct):
    """A running `epp run`. Addresses are host:port."""

    child: Child
    grpc: str
    health: str
    metrics: str

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the metrics port."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.metrics}{path}") as response:
            return response.status, await response.text()

    async def endpoints(self) -> list[dict[str, Any]]:
        _, text = await self.page("/debug/endpoints")
        found: list[dict[str, Any]] = json.loads(text)["endpoints"]
        return found

    async def in_flight(self) -> float:
        """Requests and tokens in flight over all endpoints: zero when nothing is."""
        columns = [e["columns"] for e in await self.endpoints()]
        return sum(c["in_flight_requests"] + c["in_flight_tokens"] for c in columns)

    async def idle(self) -> None:
        """Return once nothing is in flight; fails the test when that does not come about."""
        await eventually(self.in_flight, lambda total: total == 0)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        _, text = await self.page("/metrics")
        total = 0.0
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            family, _, given = head.partition("{")
            if family == name and all(f'{k}="{v}"' in given for k, v in labels.items()):
                total += float(value)
        return total

    def log(self, message: str = "request") -> list[dict[str, Any]]:
        """The log lines with this message so far."""
        return [r for r in log_records(self.child.stderr_path) if r["msg"] == message]

    async def logged(self, request_id: str) -> dict[str, Any]:
        """The line about one request, once it is there."""

        async def find() -> dict[str, Any] | None:
            return next((r for r in self.log() if r["id"] == request_id), None)

        found = await eventually(find, lambda record: record is not None)
        assert found is not None
        return found

    def terminate(self) -> None:
        self.child.process.send_signal(signal.SIGTERM)


async def eventually(ask: Callable[[], Any], accept: Callable[[Any], bool], *, deadline_s: float = 60.0) -> Any:
    """Ask again and again until the answer is acceptable, and return it."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + deadline_s
    while True:
        answer = await ask()
        if accept(answer):
            return answer
        assert loop.time() < give_up_at, f"still {answer!r} after {deadline_s:g} s"
        await asyncio.sleep(0.02)


async def start_epp(
    children: Children,
    *flags: str,
    endpoints: Sequence[str] = (),
    name: str = "epp",
    ports: Mapping[str, int] | None = None,
    tls: bool = False,
    env: Mapping[str, str] | None = None,
) -> Epp:
    """Start `epp run` on free loopback ports and return when it serves. `endpoints` are `[NAME=]HOST:PORT`.

    `env` adds to its environment.
    """
    chosen = {"grpc-port": 0, "grpc-health-port": 0, "metrics-port": 0} | dict(ports or {})
    child = await children.start(
        [
            *(sys.executable, "-m", "epp", "run", "--listen", "127.0.0.1", "--log-format", "json", "-v", "3"),
            *(f"--{flag}={port}" for flag, port in chosen.items()),
            *(f"--endpoint={e}" for e in endpoints),
            f"--secure-serving={'true' if tls else 'false'}",
            "--drain-timeout=0s",
            *flags,
        ],
        name=name,
        env=env,
    )

    async def ready() -> dict[str, Any] | None:
        return next((record for record in log_records(child.stderr_path) if record["msg"] == "serving"), None)

    said = await wait_until(child, ready, what="said that it serves", deadline_s=60)
    return Epp(
        child,
        f"127.0.0.1:{said['ext_proc_port']}",
        f"127.0.0.1:{said['health_port']}",
        f"127.0.0.1:{said['metrics_port']}",
    )


class Stack(msgspec.Struct):
    """An EPP and the Envoy that asks it."""

    children: Children
    epp: Epp
    envoy: Envoy
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.envoy.url

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and whole body. A body that is not bytes is sent as JSON. `_` in header names becomes `-`."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        async with self.session.post(f"{self.url}{path}", data=data, headers=sent) as response:
            return response.status, response.headers, await response.read()

    async def outcome(self, path: str, body: object) -> int:
        """The status, or CUT_OFF where whoever answered or looked at the answer died after its head had been sent."""
        try:
            return (await self.post(path, body))[0]
        except aiohttp.ClientPayloadError:
            return CUT_OFF

    async def complete(self, prompt: str, *, model: str, **headers: str) -> dict[str, Any]:
        """A completion that must succeed."""
        body = {"model": model, "prompt": prompt, "max_tokens": 4}
        status, _, text = await self.post("/v1/completions", body, **headers)
        assert status == 200, (status, text[:500])
        answer: dict[str, Any] = json.loads(text)
        return answer


@asynccontextmanager
async def start_stack(
    folder: Path,
    *flags: str,
    endpoints: Sequence[str],
    tls: bool = False,
    env: Mapping[str, str] | None = None,
    **envoy: Any,
) -> AsyncIterator[Stack]:
    """An EPP over `endpoints` with `env` in its environment, and an Envoy in front; `envoy` are fields of BootstrapOptions."""
    async with Children(folder / "logs") as children:
        epp = await start_epp(children, *flags, endpoints=endpoints, tls=tls, env=env)
        options = BootstrapOptions(epp=epp.grpc, epp_tls=tls, endpoints=tuple(endpoints), **envoy)
        proxy = await start_envoy(children, bootstrap(options), folder)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Stack(children, epp, proxy, session)
