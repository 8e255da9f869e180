"""The endpoints that take no model: health, metrics, what is served, and the debug endpoints under /sim."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from epp.sim.core import Core, ReceivedRequest
from epp.sim.errors import ApiError
from epp.sim.faults import GARBAGE_PAGE, Faults, changed
from epp.sim.page import CONTENT_TYPE
from epp.sim.sending import answer_headers, silence

VERSION = "0.32.0"

Handler = Callable[[Core, web.BaseRequest], Awaitable[web.StreamResponse]]


def json_answer(core: Core, request: web.BaseRequest, payload: object) -> web.Response:
    body = msgspec.json.encode(payload)
    return web.Response(body=body, content_type="application/json", headers=answer_headers(core, request))


async def health(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    core.probes += 1
    status = core.faults.health_status or (503 if core.faults.engine_dead else 200)
    return web.Response(status=status, headers=answer_headers(core, request))


async def metrics(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    core.scrapes += 1
    faults = core.faults
    if faults.metrics_delay_ms:
        await asyncio.sleep(faults.metrics_delay_ms / 1000)
    if faults.metrics_hang:
        await silence()
    headers = {**answer_headers(core, request), "content-type": CONTENT_TYPE}
    if faults.metrics_status is not None and faults.metrics_status != 200:
        return web.Response(body=b"error on request", status=faults.metrics_status, headers=headers)
    return web.Response(body=GARBAGE_PAGE if faults.metrics_garbage else core.metrics_page(), headers=headers)


async def models(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    config = core.config
    served = [(config.model, None), *((lora, config.model) for lora in config.loras)]
    return json_answer(
        core,
        request,
        {
            "object": "list",
            "data": [
                {
                    "id": name,
                    "object": "model",
                    "created": int(core.started_s),
                    "owned_by": "vllm",
                    "root": name,
                    "parent": parent,
                    "max_model_len": config.context_tokens if parent is None else None,
                    "permission": [],
                }
                for name, parent in served
            ],
        },
    )


async def version(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    return json_answer(core, request, {"version": VERSION})


async def load(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    return json_answer(core, request, {"server_load": core.load})


async def sim_requests(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    """The last received requests, oldest first; `?last=N` for fewer."""
    text = request.query.get("last", str(core.config.request_log))
    if not text.isdecimal():
        raise ApiError(400, f"last: {text!r} is not a number", param="last")
    last = int(text)
    log = list(core.requests)
    return json_answer(core, request, [_received(entry) for entry in (log[-last:] if last else [])])


async def sim_state(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    """The truth of this moment, unlike /metrics, which tells that of the last step's end."""
    engine = core.runner.engine
    pool = engine.pool
    return json_answer(
        core,
        request,
        {
            "name": core.config.name,
            "model": core.config.model,
            "loras": core.config.loras,
            "running": engine.running,
            "waiting": engine.waiting,
            "kv_cache_usage": pool.usage,
            "blocks": {"total": core.config.blocks, "used": pool.used, "free": pool.free, "cached": pool.cached},
            "steps": engine.stats.steps,
            "preemptions": engine.stats.preemptions,
            "requests_received": core.received,
            "requests_in_progress": core.load,
            "metrics_scrapes": core.scrapes,
            "health_probes": core.probes,
            "faults": core.faults,
        },
    )


async def get_faults(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    return json_answer(core, request, core.faults)


async def post_faults(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    """Set the faults named in the body, null or false to take one back; the others stay."""
    try:
        changes = msgspec.json.decode(await request.read(), type=dict[str, object])
        faults = changed(core.faults, changes)
    except msgspec.DecodeError as error:
        raise ApiError(400, str(error)) from error
    core.apply_faults(faults)
    return json_answer(core, request, core.faults)


async def delete_faults(core: Core, request: web.BaseRequest) -> web.StreamResponse:
    core.apply_faults(Faults())
    return json_answer(core, request, core.faults)


def _received(entry: ReceivedRequest) -> dict[str, object]:
    """One line of /sim/requests. A body that is no UTF-8 comes as base64."""
    shown: dict[str, object] = {
        "method": entry.method,
        "path": entry.path,
        "headers": entry.headers,
        "size_bytes": entry.size_bytes,
        "xxh64": entry.xxh64,
        "received_s": entry.received_s,
    }
    if entry.body is None:
        return shown
    try:
        return {**shown, "body": entry.body.decode()}
    except UnicodeDecodeError:
        return {**shown, "body_base64": base64.b64encode(entry.body).decode()}


ADMIN: dict[str, dict[str, Handler]] = {
    "/health": {"GET": health},
    "/metrics": {"GET": metrics},
    "/v1/models": {"GET": models},
    "/version": {"GET": version},
    "/load": {"GET": load},
    "/sim/requests": {"GET": sim_requests},
    "/sim/state": {"GET": sim_state},
    "/sim/faults": {"GET": get_faults, "POST": post_faults, "DELETE": delete_faults},
}
"""Handlers by path and method."""
