"""Requests through real Envoys of several versions, and 2,000 of them at once over one connection to the EPP."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from epp.demo.envoy import Envoy, start_envoy
from epp.demo.processes import Children
from epp.envoy.bootstrap import bootstrap
from epp.envoy.options import BodyMode, BootstrapOptions
from epp.sim import SimServer
from tests.support.envoy_versions import VERSIONS, EnvoyUnavailableError, envoy_of
from tests.support.stack import Epp, start_epp, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

MANY = 2000


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has the stack use this Envoy."""
    found: str = request.param
    try:
        monkeypatch.setenv("ENVOY", str(envoy_of(found)))
    except EnvoyUnavailableError as error:
        pytest.skip(str(error))
    return found


@pytest.mark.parametrize("response_body", [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.NONE])
async def test_requests_go_through_every_version(
    tmp_path: Path, sims: list[SimServer], version: str, response_body: BodyMode
) -> None:
    async with start_stack(tmp_path, endpoints=[s.address for s in sims], response_body=response_body) as stack:
        body = {"model": "sim-model", "prompt": "hello", "max_tokens": 5}
        large = json.dumps(body | {"prompt": "long " * 40_000}).encode()

        plain = await stack.post("/v1/completions", body)
        streamed = await stack.post("/v1/completions", body | {"stream": True})
        big = await stack.post("/v1/completions", large, x_request_id="big")
        async with stack.session.get(f"{stack.url}/v1/models") as response:
            listed = response.status

        async with stack.session.get(f"http://{stack.envoy.admin_address}/server_info") as response:
            running = (await response.json())["version"]

        assert f"/{version}/" in running
        assert (plain[0], streamed[0], big[0], listed) == (200, 200, 200, 200)
        assert json.loads(plain[2])["usage"]["completion_tokens"] == 5
        assert streamed[2].endswith(b"data: [DONE]\n\n")
        assert [r.size_bytes for s in sims for r in s.requests if r.header("x-request-id") == "big"] == [len(large)]
        await stack.epp.idle()
        assert await stack.epp.metric("llm_epp_unexpected_messages_total") == 0


class Crowd:
    """A model server that answers nobody before everybody is there and `go` is set."""

    def __init__(self) -> None:
        self.waiting = 0
        self.everybody = asyncio.Event()
        self.go = asyncio.Event()

    async def complete(self, request: web.Request) -> web.Response:
        await request.read()
        self.waiting += 1
        if self.waiting == MANY:
            self.everybody.set()
        await self.go.wait()
        return web.json_response({"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/completions", self.complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=MANY)
        await site.start()
        try:
            yield f"127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def one_connection_stack(folder: Path, endpoint: str) -> AsyncIterator[tuple[Epp, Envoy]]:
    """An EPP and an Envoy that sends it all its streams over one connection; Envoy by itself stops at 1,024."""
    async with Children(folder / "logs") as children:
        epp = await start_epp(children, endpoints=[endpoint])
        config: Any = bootstrap(BootstrapOptions(epp=epp.grpc))
        (cluster,) = [c for c in config["static_resources"]["clusters"] if c["name"] == "epp"]
        (protocol,) = cluster["typed_extension_protocol_options"].values()
        protocol["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"] = 2 * MANY
        yield epp, await start_envoy(children, config, folder)


async def test_two_thousand_requests_at_once_over_one_connection(tmp_path: Path) -> None:
    # Two sockets of each request are ours: the client's and the model server's.
    wanted_files = 2 * MANY + 500
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted_files:
        pytest.skip(f"needs {wanted_files} open files: raise the limit with ulimit -n")
    crowd = Crowd()
    async with crowd.serving() as address, one_connection_stack(tmp_path, address) as (epp, envoy):

        async def send(session: aiohttp.ClientSession) -> int:
            body = {"model": "m", "prompt": "hello"}
            async with session.post(f"{envoy.url}/v1/completions", json=body) as response:
                await response.read()
                return response.status

        timeout = aiohttp.ClientTimeout(total=240)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            requests = asyncio.gather(*(send(session) for _ in range(MANY)))
            await asyncio.wait_for(crowd.everybody.wait(), 200)
            stats = await envoy.stats(r"^cluster\.epp\.upstream_(cx_total|rq_active)$")
            counted = await epp.in_flight()
            crowd.go.set()
            statuses = await requests

        assert set(statuses) == {200}
        assert stats == {"cluster.epp.upstream_cx_total": 1, "cluster.epp.upstream_rq_active": MANY}
        assert counted >= MANY
        await epp.idle()
        assert await epp.metric("inference_objective_request_total") == MANY
        assert await epp.metric("inference_objective_running_requests") == 0
        assert await epp.metric("llm_epp_unexpected_messages_total") == 0
