"""The metrics port over a real socket, with a real recorder and fleet behind it."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec
import pytest

from epp.api import METRICS_UPDATED_S, WAITING_REQUESTS, Endpoint, Exporter, Fleet, StateDumper
from epp.observability.explain import Decisions
from epp.observability.metrics import Recorder
from epp.observability.requests import RequestLog
from epp.observability.state import endpoints_state, exported, plugins_state
from epp.server.health import HealthState
from epp.server.http import HttpServer, Pages
from epp.server.tls import Certificate, ssl_context
from tests.support.deciding import decide
from tests.support.http_fakes import eventually
from tests.support.plugins import Clock, make_handle
from tests.support.recording import make_request, make_response


class Dumper(StateDumper):
    type = "dumper"

    def dump_state(self) -> object:
        return [1, 2]


class Files(Exporter):
    type = "files"
    content_type = "text/csv"

    def export(self) -> Iterator[bytes]:
        yield b"a,b\n"
        yield b"1,2\n"


@dataclass
class Picker:
    """What the app would put behind the pages."""

    clock: Clock = field(default_factory=Clock)
    fleet: Fleet = field(default_factory=Fleet)
    health: HealthState = field(default_factory=HealthState)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.clock)
        self.decisions = Decisions(self.fleet, self.clock)
        self.recorder.watch_fleet(self.fleet, self.clock, 2.0, "pool")
        self.plugin = Dumper(Dumper.Params(), make_handle(name="mine"))
        self.files = Files(Files.Params(), make_handle(name="files"))

    def pages(self) -> Pages:
        return Pages(
            metrics=self.recorder.parts,
            problems=self.health.problems,
            endpoints=lambda: endpoints_state(self.fleet, self.clock, pool_name="<pool>"),
            config=lambda: ("plugins: []\n", "abc123"),
            plugins=lambda: plugins_state({"mine": self.plugin}),
            export=lambda name: exported({"mine": self.plugin, "files": self.files}, name),
            requests=RequestLog(self.decisions).recent,
        )


@pytest.fixture
def picker() -> Picker:
    return Picker()


@pytest.fixture
async def client(picker: Picker) -> AsyncIterator[aiohttp.ClientSession]:
    server = await HttpServer.start(picker.pages(), "127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        yield session
    await server.close()


async def get(client: aiohttp.ClientSession, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type, body."""
    async with client.get(path, headers={"Accept": accept}) as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_metrics_come_in_the_classic_format(picker: Picker, client: aiohttp.ClientSession) -> None:
    picker.recorder.request_routed(make_request("m"))

    status, content_type, body = await get(client, "/metrics")

    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'inference_objective_request_total{model_name="m",priority="0",target_model_name="m"} 1.0' in body
    assert 'inference_pool_ready_pods{name="pool"} 0.0' in body
    assert "process_resident_memory_bytes" in body


async def test_metrics_come_as_openmetrics_when_asked_for(client: aiohttp.ClientSession) -> None:
    status, content_type, body = await get(client, "/metrics", "application/openmetrics-text; version=1.0.0")

    assert (status, content_type.partition(";")[0]) == (200, "application/openmetrics-text")
    assert body.endswith("# EOF\n")
    assert body.count("# EOF") == 1


async def test_liveness_does_not_depend_on_readiness(client: aiohttp.ClientSession) -> None:
    assert (await get(client, "/healthz"))[0] == 200
    assert (await get(client, "/readyz"))[0] == 503


async def test_readiness_says_what_is_missing(picker: Picker, client: aiohttp.ClientSession) -> None:
    not_ready = await get(client, "/readyz")
    picker.health.synced = True
    ready = await get(client, "/readyz")

    assert not_ready == (503, "text/plain; charset=utf-8", "endpoints: not loaded yet\n")
    assert ready == (200, "text/plain; charset=utf-8", "ok\n")


async def test_a_plugin_hands_out_a_file(client: aiohttp.ClientSession) -> None:
    assert await get(client, "/debug/plugins/export/files") == (200, "text/csv", "a,b\n1,2\n")
    for name in ("mine", "nobody", "a/b"):
        status, _, text = await get(client, f"/debug/plugins/export/{name}")
        assert (status, json.loads(text)) == (404, {"error": f"no plugin {name!r} hands out a file"})


async def test_endpoints_come_as_json(picker: Picker, client: aiohttp.ClientSession) -> None:
    picker.fleet.add(Endpoint("e0", "10.0.0.1", 8000))
    picker.fleet.columns[WAITING_REQUESTS][0] = 4

    async with client.get("/debug/endpoints") as response:
        state = await response.json()

    assert [(e["name"], e["columns"]["waiting_requests"]) for e in state["endpoints"]] == [("e0", 4.0)]


async def test_a_browser_gets_a_table_in_which_nothing_is_markup(picker: Picker, client: aiohttp.ClientSession) -> None:
    picker.fleet.add(Endpoint("<script>", "10.0.0.1", 8000))
    picker.fleet.add(Endpoint("e1", "10.0.0.2", 8000))
    picker.fleet.columns[METRICS_UPDATED_S][1] = picker.clock() - 1.25

    status, content_type, body = await get(client, "/debug/endpoints", "text/html,*/*")

    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert "<script>" not in body
    assert "2 endpoints of &lt;pool&gt;" in body
    assert "<td>&lt;script&gt;</td><td>10.0.0.1:8000</td><td>never</td>" in body
    assert "<td>e1</td><td>10.0.0.2:8000</td><td>1.25 s</td>" in body


async def test_the_configuration_comes_with_its_hash(client: aiohttp.ClientSession) -> None:
    async with client.get("/debug/config") as response:
        shown = response.headers["X-Config-Hash"], await response.text()

    assert shown == ("abc123", "plugins: []\n")


async def test_plugins_show_their_state(client: aiohttp.ClientSession) -> None:
    async with client.get("/debug/plugins/state") as response:
        state = await response.json()

    assert state["plugins"] == {"mine": {"name": "mine", "type": "dumper", "state": [1, 2]}}


async def test_the_last_requests_are_shown(picker: Picker, client: aiohttp.ClientSession) -> None:
    picker.fleet.add(Endpoint("e0", "10.0.0.1", 8000))
    request = decide(picker.decisions, picker.fleet, make_request("m"))
    picker.decisions.ended(request, make_response())

    async with client.get("/debug/requests") as response:
        [record] = (await response.json())["requests"]

    assert (record["model"], record["duration_ms"], record["in_flight"]) == ("m", 2000.0, 1)


async def test_nothing_can_be_changed_over_this_port(client: aiohttp.ClientSession) -> None:
    for path in ("/metrics", "/debug/config", "/debug/endpoints"):
        async with client.post(path, data=b"x") as response:
            assert response.status == 405


async def test_the_port_may_speak_tls(picker: Picker) -> None:
    server = await HttpServer.start(
        picker.pages(), "127.0.0.1", 0, tls=ssl_context(Certificate(), protocols=("http/1.1",))
    )
    # Like Prometheus, this client offers HTTP/2 as well.
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_tls.check_hostname = False
    client_tls.verify_mode = ssl.CERT_NONE
    client_tls.set_alpn_protocols(["h2", "http/1.1"])
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_tls)) as session,
        session.get(f"https://127.0.0.1:{server.port}/healthz") as response,
    ):
        status = response.status
    await server.close()

    assert status == 200


async def test_a_taken_port_is_an_error(picker: Picker) -> None:
    server = await HttpServer.start(picker.pages(), "127.0.0.1", 0)

    with pytest.raises(OSError, match="in use"):
        await HttpServer.start(picker.pages(), "127.0.0.1", server.port)
    await server.close()


HEAD: Final = b"GET /healthz HTTP/1.1\r\nHost: epp\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"Authorization: Bearer " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n", b"400"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain", b"200"),
    ],
    ids=["header", "path", "chunk", "body"],
)
async def test_what_strangers_send_does_not_fill_the_log(
    request_bytes: bytes, status: bytes, picker: Picker, caplog: pytest.LogCaptureFixture
) -> None:
    server = await HttpServer.start(picker.pages(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_bytes)

    answer = await reader.read()  # to the end: by then the server is done with the connection
    writer.close()
    await server.close()

    assert answer.split()[1] == status
    assert not caplog.records


async def test_a_reader_that_leaves_does_not_fill_the_log(picker: Picker, caplog: pytest.LogCaptureFixture) -> None:
    endless = itertools.repeat(b"x" * 100_000)
    pages = msgspec.structs.replace(picker.pages(), export=lambda name: (endless, "text/plain"))
    server = await HttpServer.start(pages, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEAD.replace(b"healthz", b"debug/plugins/export/files") + b"\r\n")
    await reader.read(1000)
    writer.transport.abort()
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await server.close()

    assert not caplog.records


async def test_an_error_of_a_page_is_logged(picker: Picker, caplog: pytest.LogCaptureFixture) -> None:
    def broken(accept: str) -> tuple[Iterator[bytes], str]:
        raise ValueError("a mistake of ours")

    server = await HttpServer.start(msgspec.structs.replace(picker.pages(), metrics=broken), "127.0.0.1", 0)
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{server.port}/metrics") as response:
        status = response.status
    await server.close()

    assert status == 500
    assert "a mistake of ours" in caplog.text
