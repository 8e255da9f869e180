"""The metrics port: Prometheus' page, probes, and pages that show what the picker knows. It only reads.

The pages come as callables, so nothing here knows the app. Where there is a gate, it is asked before every page but the
probes. No page shows the text of a prompt.
"""

from __future__ import annotations

import asyncio
import html
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, assert_never

import msgspec
from aiohttp import ClientConnectionResetError, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from epp.observability.plain import encode_json
from epp.server.access import AccessGate, Verdict

_log: Final = logging.getLogger(__name__)

JSON: Final = "application/json"
MOST_DECISIONS: Final = 100  # in one answer: a decision over many endpoints takes milliseconds to tell
_NOT_KEPT: Final = "no decisions are kept: --explain-decisions is 0"
_PROBES: Final = frozenset(("/healthz", "/readyz"))
CLOSE_S: Final = 5.0  # how long pages under way may take at the end
# What aiohttp logs with a traceback though the client is at fault: a head or a body that cannot be read, a reader that left.
_OF_CLIENTS: Final = (HttpProcessingError, web.RequestPayloadError, ClientConnectionResetError)

_STYLE: Final = (
    "body{font:14px system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}"
    "th,td{border:1px solid #ccc;padding:.3rem .6rem;text-align:right}th{background:#f4f4f4}"
    "th:first-child,td:first-child{text-align:left}@media(prefers-color-scheme:dark){"
    "body{background:#111;color:#ddd}th{background:#222}th,td{border-color:#444}}"
)


class ExplainPage(Protocol):
    """Decisions as plain data (`epp.observability.explain_page.ExplainPage`)."""

    def one(self, request_id: str) -> Mapping[str, Any] | None:
        """The latest decision about this request; None where it is not kept."""
        ...

    def last(self, count: int) -> Iterator[Mapping[str, Any]]: ...

    def after(self, number: int, count: int) -> Iterator[Mapping[str, Any]]: ...


class Pages(msgspec.Struct, frozen=True):
    """Where the pages come from. All are called on the event loop and must be quick."""

    metrics: Callable[[str], tuple[Iterator[bytes], str]]
    """By the Accept header: the page in parts, and its content type (`Recorder.parts`)."""
    problems: Callable[[], Sequence[str]]
    """Why the picker is not ready; empty when it is (`HealthState.problems`)."""
    endpoints: Callable[[], Mapping[str, Any]]
    """`epp.observability.state.endpoints_state`."""
    config: Callable[[], tuple[str, str]]
    """The resolved configuration as text, and its hash."""
    plugins: Callable[[], Mapping[str, Any]]
    """`epp.observability.state.plugins_state`."""
    export: Callable[[str], tuple[Iterator[bytes], str] | None]
    """What the plugin of this name hands out as a file, in pieces, and its content type; None where there is none."""
    requests: Callable[[], Sequence[Mapping[str, Any]]]
    """The last requests, the latest first (`RequestLog.recent`)."""
    explain: ExplainPage | None = None
    """Decisions in detail; None where none are kept."""
    notes: Callable[[], Sequence[str]] = tuple
    """What an operator should know though the picker is ready: shown by `/readyz` below the answer."""


def build_app(pages: Pages, gate: AccessGate | None = None) -> web.Application:
    """The application of the metrics port. Without a `gate` everybody may read everything."""
    app = web.Application(middlewares=() if gate is None else (_guarded(gate),))

    async def metrics(request: web.Request) -> web.StreamResponse:
        parts, content_type = pages.metrics(request.headers.get("Accept", ""))
        body = bytearray()
        for part in parts:
            body += part
            await asyncio.sleep(0)  # a long page must not hold up requests
        # aiohttp takes a charset only as an argument of its own; the whole header is the encoder's.
        return web.Response(body=bytes(body), headers={"Content-Type": content_type})

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        problems = pages.problems()
        return web.Response(
            text="\n".join([*(problems or ["ok"]), *pages.notes()]) + "\n", status=503 if problems else 200
        )

    async def endpoints(request: web.Request) -> web.Response:
        state = pages.endpoints()
        if "text/html" in request.headers.get("Accept", ""):
            return web.Response(text=endpoints_html(state), content_type="text/html")
        return _json(state)

    async def config(request: web.Request) -> web.Response:
        text, config_hash = pages.config()
        return web.Response(text=text, headers={"X-Config-Hash": config_hash})

    async def plugins(request: web.Request) -> web.Response:
        return _json(pages.plugins())

    async def export(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        found = pages.export(name)
        if found is None:
            return _json({"error": f"no plugin {name!r} hands out a file"}, status=404)
        pieces, content_type = found
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)  # as above
        await response.write_eof()
        return response

    async def requests(request: web.Request) -> web.Response:
        return _json({"requests": pages.requests()})

    async def explain(request: web.Request) -> web.Response:
        page = pages.explain
        if page is None:
            return _json({"error": _NOT_KEPT}, status=404)
        try:
            last = int(request.query.get("last", "1"))
            after = int(request.query["after"]) if "after" in request.query else None
        except ValueError:
            return _json({"error": "last and after are numbers"}, status=400)
        wanted = page.last(min(max(last, 1), MOST_DECISIONS)) if after is None else page.after(after, MOST_DECISIONS)
        told = []
        for decision in wanted:
            told.append(encode_json(decision))
            await asyncio.sleep(0)  # many decisions must not hold up requests
        return web.Response(body=b'{"decisions":[' + b",".join(told) + b"]}", content_type=JSON)

    async def explain_one(request: web.Request) -> web.Response:
        page = pages.explain
        request_id = request.match_info["id"]
        found = None if page is None else page.one(request_id)
        if found is None:
            reason = _NOT_KEPT if page is None else f"no decision about request {request_id!r} is kept"
            return _json({"error": reason}, status=404)
        return _json(found)

    handlers: dict[str, Handler] = {
        "/metrics": metrics,
        "/healthz": healthz,
        "/readyz": readyz,
        "/debug/endpoints": endpoints,
        "/debug/config": config,
        "/debug/plugins/state": plugins,
        "/debug/plugins/export/{name:.+}": export,
        "/debug/requests": requests,
        "/explain": explain,
        # Ids are the clients' to choose: one may hold slashes.
        "/explain/{id:.+}": explain_one,
    }
    for path, handler in handlers.items():
        app.router.add_get(path, handler)
    return app


class HttpServer:
    """The metrics port while it is open. `port` is the one bound, also when 0 was asked for."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self._runner = runner
        self.port = port

    @classmethod
    async def start(
        cls,
        pages: Pages,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        gate: AccessGate | None = None,
    ) -> HttpServer:
        """Raises OSError when the port cannot be bound."""
        _log.addFilter(_is_ours)
        app = build_app(pages, gate)
        runner = web.AppRunner(app, logger=_log, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError:
            await runner.cleanup()
            raise
        return cls(runner, runner.addresses[0][1])

    async def close(self) -> None:
        """Close the port; pages under way have CLOSE_S to finish."""
        await self._runner.cleanup()


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an error is worth a line: whoever reaches the port could fill the log with those of clients."""
    return record.exc_info is None or not isinstance(record.exc_info[1], _OF_CLIENTS)


def _guarded(gate: AccessGate) -> Middleware:
    """Ask the gate first. Statuses and texts are those of controller-runtime's filter."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _PROBES:  # the kubelet has no token
            return await handler(request)
        verdict, user = await gate.check(request.headers.get("Authorization", ""))
        match verdict:
            case Verdict.ALLOWED:
                return await handler(request)
            case Verdict.UNAUTHORIZED:
                return web.Response(status=401, text="Unauthorized\n", headers={"WWW-Authenticate": "Bearer"})
            case Verdict.FORBIDDEN:
                return web.Response(status=403, text=f"Authorization denied for user {user}\n")
            case Verdict.NOT_AUTHENTICATED:
                return web.Response(status=500, text="Authentication failed\n")
            case Verdict.NOT_AUTHORIZED:
                return web.Response(status=500, text=f"Authorization for user {user} failed\n")
            case Verdict.BUSY:
                return web.Response(status=503, text="Too many tokens to ask about\n", headers={"Retry-After": "1"})
            case _:
                assert_never(verdict)

    return guard


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=encode_json(value), content_type=JSON, status=status)


def endpoints_html(state: Mapping[str, Any]) -> str:
    """`endpoints_state` as a page: a row per endpoint, a column per number."""
    endpoints: Sequence[Mapping[str, Any]] = state["endpoints"]
    columns = sorted({name for endpoint in endpoints for name in endpoint["columns"]})
    head = _cells("th", ["endpoint", "address", "metrics age", "scrapes", *columns, "adapters"])
    rows = "".join(f"<tr>{_cells('td', _row(endpoint, columns))}</tr>" for endpoint in endpoints)
    title = f"{len(endpoints)} endpoints of {html.escape(str(state['pool']) or 'the pool')}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(str(state['timestamp']))}</p><table><tr>{head}</tr>{rows}</table></html>\n"
    )


def _row(endpoint: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    age_s = endpoint["metrics_age_s"]
    scrapes = ", ".join(f"{result} {count:g}" for result, count in endpoint["scrapes"].items())
    numbers = [f"{endpoint['columns'].get(name, 0.0):.4g}" for name in columns]
    age = "never" if age_s is None else f"{age_s:.2f} s"
    return [endpoint["name"], endpoint["address"], age, scrapes, *numbers, ", ".join(endpoint["lora_active"])]


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(str(text))}</{tag}>" for text in texts)
