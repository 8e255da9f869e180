"""Every fault the simulator can play, by header and by admin call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from epp.sim import SimConfig, SimServer, StepCost
from tests.support.ports import free_port

BODY = {"prompt": "hello", "max_tokens": 6}
ENDLESS = {"prompt": "hello", "max_tokens": 100_000, "stream": True}


@pytest.fixture
async def server() -> AsyncIterator[SimServer]:
    async with SimServer(SimConfig(port=free_port(), cost=StepCost(speed=20))) as server:
        yield server


@pytest.fixture
async def client(server: SimServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as client:
        yield client


async def status(client: aiohttp.ClientSession, path: str) -> int:
    async with client.get(path) as response:
        return response.status


async def complete(client: aiohttp.ClientSession, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post("/v1/completions", json=BODY, headers=named) as response:
        await response.read()
        return response.status


async def chunks_until_the_end(response: aiohttp.ClientResponse) -> int:
    """Events received before the connection broke."""
    data = b""
    try:
        async for piece in response.content.iter_any():
            data += piece
    except aiohttp.ClientPayloadError:
        return data.count(b"data: ")
    pytest.fail("the answer came to its proper end")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (the simulator has no event for it)
            await asyncio.sleep(0.001)


async def test_a_delay_comes_before_anything_else(client: aiohttp.ClientSession) -> None:
    started_s = asyncio.get_running_loop().time()

    assert await complete(client, x_sim_delay_ms="150") == 200
    assert asyncio.get_running_loop().time() - started_s >= 0.15


async def test_an_error_status_is_answered_with_an_error_body(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/completions", json=BODY, headers={"x-sim-error": "429"}) as response:
        error = (await response.json())["error"]

    assert (response.status, error["type"], error["code"]) == (429, "RateLimitError", 429)


async def test_a_fault_header_that_makes_no_sense_is_a_bad_request(client: aiohttp.ClientSession) -> None:
    assert await complete(client, x_sim_error="often") == 400


async def test_a_stream_is_dropped_after_so_many_chunks(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/completions", json=ENDLESS, headers={"x-sim-drop": "2"}) as response:
        assert await chunks_until_the_end(response) == 2


async def test_an_answer_that_is_no_stream_is_cut_in_the_middle(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/completions", json=BODY, headers={"x-sim-drop": "1"}) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_connection_dropped_at_once_gives_no_response(client: aiohttp.ClientSession) -> None:
    with pytest.raises((aiohttp.ServerDisconnectedError, ConnectionError)):
        await complete(client, x_sim_drop="0")


async def test_a_hanging_request_sends_nothing_until_the_client_leaves(
    client: aiohttp.ClientSession, server: SimServer
) -> None:
    asked = asyncio.create_task(complete(client, x_sim_hang="true"))
    await until(lambda: len(server.requests) == 1)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asked, 0.2)
    assert await complete(client) == 200


async def test_a_stream_can_hang_in_its_middle(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/completions", json=ENDLESS, headers={"x-sim-hang": "3"}) as response:
        for _ in range(3):
            assert (await response.content.readuntil(b"\n\n")).startswith(b"data: {")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.content.read(1), 0.2)


async def test_faults_are_set_and_cleared_by_admin_calls(client: aiohttp.ClientSession) -> None:
    async with client.post("/sim/faults", json={"error": 503, "metrics_status": 500}) as response:
        told = await response.json()
    assert (told["error"], told["metrics_status"], told["frozen"]) == (503, 500, False)
    assert (await complete(client), await status(client, "/metrics")) == (503, 500)

    async with client.post("/sim/faults", json={"error": None}) as response:
        assert response.status == 200
    assert (await complete(client), await status(client, "/metrics")) == (200, 500)

    async with client.delete("/sim/faults") as response:
        assert response.status == 200
    assert await status(client, "/metrics") == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"eror": 500}', b'{"error": "often"}'])
async def test_wrong_fault_settings_are_refused(client: aiohttp.ClientSession, body: bytes) -> None:
    async with client.post("/sim/faults", data=body) as response:
        assert response.status == 400
    assert await complete(client) == 200


async def test_metrics_can_hang_while_requests_are_served(client: aiohttp.ClientSession, server: SimServer) -> None:
    server.set_faults(metrics_hang=True)
    scrape = asyncio.create_task(status(client, "/metrics"))
    await until(lambda: server.scrapes == 1)

    assert await complete(client) == 200
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(scrape, 0.2)


async def test_metrics_can_be_garbage(client: aiohttp.ClientSession, server: SimServer) -> None:
    server.set_faults(metrics_garbage=True)
    async with client.get("/metrics") as response:
        page = await response.read()

    assert response.status == 200
    with pytest.raises(UnicodeDecodeError):
        page.decode()


async def test_metrics_can_be_late(client: aiohttp.ClientSession, server: SimServer) -> None:
    server.set_faults(metrics_delay_ms=150)
    started_s = asyncio.get_running_loop().time()

    assert await status(client, "/metrics") == 200
    assert asyncio.get_running_loop().time() - started_s >= 0.15


async def test_health_can_fail_alone(client: aiohttp.ClientSession, server: SimServer) -> None:
    server.set_faults(health_status=500)

    assert await status(client, "/health") == 500
    assert await complete(client) == 200


async def test_a_frozen_engine_looks_healthy_and_goes_on_when_thawed(
    client: aiohttp.ClientSession, server: SimServer
) -> None:
    server.set_faults(frozen=True)
    async with client.get("/metrics") as response:
        before = await response.text()
    asked = asyncio.create_task(complete(client))
    await until(lambda: server.running == 1)
    async with client.get("/metrics") as response:
        assert await response.text() == before
    assert await status(client, "/health") == 200
    assert not asked.done()

    server.clear_faults()

    assert await asked == 200


async def test_a_dead_engine_fails_what_it_had_and_refuses_the_rest(
    client: aiohttp.ClientSession, server: SimServer
) -> None:
    server.set_faults(frozen=True)
    asked = asyncio.create_task(complete(client))
    await until(lambda: server.running == 1)
    server.set_faults(frozen=False, engine_dead=True)

    assert await asked == 500
    assert await complete(client) == 500
    assert (await status(client, "/health"), await status(client, "/metrics")) == (503, 200)
    server.clear_faults()
    assert (await complete(client), await status(client, "/health")) == (200, 200)


async def test_a_stream_on_a_dying_engine_ends_with_an_error_event(
    client: aiohttp.ClientSession, server: SimServer
) -> None:
    async with client.post("/v1/completions", json=ENDLESS) as response:
        await response.content.readline()
        server.set_faults(engine_dead=True)
        text = await response.text()

    assert '"code":500' in text
    assert text.endswith("data: [DONE]\n\n")


async def test_a_restart_keeps_the_port_and_loses_everything_else(
    client: aiohttp.ClientSession, server: SimServer
) -> None:
    address = server.address
    server.set_faults(metrics_status=500)
    async with client.post("/v1/completions", json=ENDLESS) as response:
        await response.content.readline()
        await server.stop()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    with pytest.raises(aiohttp.ClientConnectionError):
        await complete(client)

    await server.start()

    assert server.address == address
    assert (await complete(client), await status(client, "/metrics")) == (200, 200)
    async with client.get("/metrics") as response:
        assert 'finished_reason="length",model_name="sim-model"} 1.0' in await response.text()


async def test_a_server_that_stops_lets_go_of_hanging_requests(server: SimServer) -> None:
    async with aiohttp.ClientSession(server.url) as client:
        hanging = asyncio.create_task(complete(client, x_sim_hang="true"))
        await until(lambda: len(server.requests) == 1)
        async with asyncio.timeout(60):
            await server.stop()
        with pytest.raises(aiohttp.ClientError):
            await hanging
