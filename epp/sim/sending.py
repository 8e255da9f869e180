"""Writes answers to the client, and cuts or silences them where a fault says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from epp.sim.core import Core
from epp.sim.faults import Faults


def answer_headers(core: Core, request: web.BaseRequest) -> dict[str, str]:
    """Headers of every response: who answered, and the id of the request if it came with one."""
    headers = {"x-sim-name": core.config.name}
    request_id = request.headers.get("x-request-id")
    if request_id is not None:
        headers["x-request-id"] = request_id
    return headers


def hang_up(request: web.BaseRequest) -> None:
    """Close the connection after what has been written, without the end that HTTP asks for."""
    if request.transport is not None:
        request.transport.close()


async def silence() -> None:
    """Wait until the client goes away or the server stops: both cancel the handler."""
    await asyncio.get_running_loop().create_future()


async def respond(core: Core, request: web.BaseRequest, body: bytes, *, faults: Faults) -> web.StreamResponse:
    """Send a JSON answer; one that is to be dropped or to hang stops in the middle of its body."""
    headers = answer_headers(core, request)
    if not faults.drop and not faults.hang:
        return web.Response(body=body, content_type="application/json", headers=headers)
    headers["content-type"] = "application/json"
    headers["content-length"] = str(len(body))
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    await _cut(request, faults)
    return response


async def send_events(
    core: Core, request: web.BaseRequest, batches: AsyncIterator[list[bytes]], *, faults: Faults
) -> web.StreamResponse:
    """Stream server-sent events. The headers go out at once, before the first token, as vLLM's do."""
    headers = answer_headers(core, request)
    headers["content-type"] = "text/event-stream; charset=utf-8"
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    limits = [limit for limit in (faults.drop, faults.hang) if limit is not None]
    left = min(limits) if limits else None
    async for events in batches:
        if left is not None and len(events) >= left:
            await response.write(b"".join(events[:left]))
            await _cut(request, faults)
            return response
        await response.write(b"".join(events))
        if left is not None:
            left -= len(events)
    await response.write_eof()
    return response


async def _cut(request: web.BaseRequest, faults: Faults) -> None:
    """The connection ends or goes silent here, whichever was asked for first; closing wins a tie."""
    if faults.hang is not None and (faults.drop is None or faults.hang < faults.drop):
        await silence()
    hang_up(request)
