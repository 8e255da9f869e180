"""The Envoy configurations in `deploy`, with nothing changed but addresses, before a real picker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from epp.demo.envoy import Envoy, start_envoy
from epp.demo.processes import Children
from epp.envoy.forms import split_address
from epp.sim import SimConfig, SimServer, StepCost
from tests.support.stack import Epp, start_epp

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

DEPLOY = Path(__file__).parents[2] / "deploy"
STANDALONE = DEPLOY / "manifests" / "components" / "envoy" / "envoy.yaml"
GATEWAYS = DEPLOY / "gateways" / "plain-envoy"
COMPLETION = {"model": "sim-model", "prompt": "hello", "max_tokens": 2}

Address = Callable[[str, int], tuple[str, int]]


def moved(document: Any, address: Address) -> Any:
    """A configuration with every address replaced."""
    if isinstance(document, list):
        return [moved(item, address) for item in document]
    if not isinstance(document, dict):
        return document
    if set(document) == {"address", "port_value"}:
        return dict(zip(document, address(document["address"], document["port_value"]), strict=True))
    return {key: moved(value, address) for key, value in document.items()}


@dataclass(frozen=True, slots=True)
class Deployed:
    """A model server, the picker that knows it, and an Envoy with the configuration in `file`."""

    file: Path
    server: SimServer
    epp: Epp
    envoy: Envoy
    session: aiohttp.ClientSession

    async def status(self) -> int:
        """Of a completion."""
        async with self.session.post(f"{self.envoy.url}/v1/completions", json=COMPLETION) as response:
            await response.read()
            return response.status


@pytest_asyncio.fixture(
    params=[STANDALONE, *sorted(GATEWAYS.glob("*/envoy.yaml"))], ids=lambda file: file.parent.name, loop_scope="session"
)
async def deployed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Deployed]:
    file: Path = request.param
    config = yaml.safe_load(await asyncio.to_thread(file.read_text))
    tls = "transport_socket" in next(c for c in config["static_resources"]["clusters"] if c["name"] == "epp")
    # Admin pages need a port that is known. An address of the loopback network that nobody else has makes any port free.
    own_host = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.{random.randint(1, 250)}"
    async with (
        SimServer(SimConfig(name="sim", cost=StepCost(speed=20))) as server,
        Children(tmp_path / "logs") as children,
        aiohttp.ClientSession() as session,
    ):
        epp = await start_epp(children, endpoints=[server.address], tls=tls)

        def address(host: str, port: int) -> tuple[str, int]:
            if port == 9002:
                return split_address(epp.grpc)
            if port == 8000:
                return "localhost", server.port  # what is a name stays one
            return ("127.0.0.1", 0) if port in (8081, 19001) else (own_host, port)

        envoy = await start_envoy(children, moved(config, address), tmp_path)
        yield Deployed(file, server, epp, envoy, session)


async def test_requests_go_where_the_picker_says(deployed: Deployed) -> None:
    statuses = [await deployed.status() for _ in range(4)]

    assert statuses == [200] * 4
    await deployed.epp.idle()
    port = str(deployed.server.port)
    assert await deployed.epp.metric("llm_d_epp_scheduler_attempts_total", status="success", port=port) == 4


async def test_without_a_picker_requests_fail_or_go_to_any_endpoint_as_the_file_says(deployed: Deployed) -> None:
    assert await deployed.status() == 200

    deployed.epp.child.process.kill()
    await deployed.epp.child.process.wait()
    statuses = {await deployed.status() for _ in range(4)}

    assert statuses == ({200} if deployed.file.parent.name.endswith("fail-open") else {500})


async def test_probes_see_whether_envoy_is_ready_and_nothing_that_they_could_break(deployed: Deployed) -> None:
    statuses = {}
    for page in ("/ready", "/stats/prometheus", "/", "/quitquitquit", "/config_dump"):
        async with deployed.session.get(f"http://{deployed.envoy.listeners['probes']}{page}") as response:
            statuses[page] = response.status

    assert statuses == {"/ready": 200, "/stats/prometheus": 200, "/": 404, "/quitquitquit": 404, "/config_dump": 404}
