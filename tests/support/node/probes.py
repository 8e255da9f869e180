"""One probe of one container, as a kubelet does it. It answers whether the container passed, and why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Object = dict[str, Any]
Run = Callable[[list[str]], Awaitable[int]]
"""Runs a command in the container and gives its exit status."""

_DIRECT: Final = (("grpc.enable_http_proxy", 0),)


async def ask(probe: Object, address: str, ports: dict[str, int], run: Run, *, timeout_s: float) -> str | None:
    """None if it passed. `ports` are those of the container that have names."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(probe, address, ports, run)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return str(error) or type(error).__name__
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"


async def _ask(probe: Object, address: str, ports: dict[str, int], run: Run) -> str | None:
    if "httpGet" in probe:
        return await _http(probe["httpGet"], address, ports)
    if "grpc" in probe:
        return await _grpc(probe["grpc"], address)
    if "tcpSocket" in probe:
        _, writer = await asyncio.open_connection(address, _port(probe["tcpSocket"]["port"], ports))
        writer.close()
        return None
    status = await run(probe["exec"]["command"])
    return None if status == 0 else f"exit status {status}"


async def _http(action: Object, address: str, ports: dict[str, int]) -> str | None:
    scheme = action.get("scheme", "HTTP").lower()
    url = f"{scheme}://{action.get('host', address)}:{_port(action['port'], ports)}{action.get('path', '/')}"
    headers = {header["name"]: header["value"] for header in action.get("httpHeaders", ())}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers, ssl=False, allow_redirects=False) as response,
    ):
        return None if 200 <= response.status < 400 else f"HTTP {response.status}"


async def _grpc(action: Object, address: str) -> str | None:
    async with grpc.aio.insecure_channel(f"{address}:{action['port']}", options=_DIRECT) as channel:
        request = health_pb2.HealthCheckRequest(service=action.get("service") or "")
        answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return None if serving else health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _port(port: int | str, ports: dict[str, int]) -> int:
    return port if isinstance(port, int) else ports[port]
