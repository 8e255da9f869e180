"""What both applications share: reading bodies, refusing them, answering in JSON."""

from __future__ import annotations

import logging
import re
from typing import Any, Final, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

MOST_BODY_BYTES: Final = 64 * 1024 * 1024

Body = TypeVar("Body")


class Refused(Exception):
    """The body cannot be used: 422, in the shape of FastAPI's own validation errors."""

    def __init__(self, kind: str, path: str, text: str) -> None:
        super().__init__(text)
        self.detail = [{"type": kind, "loc": ["body", *_steps(path)], "msg": text}]


class TooLarge(Exception):
    """413."""


async def read_body(request: Request, kind: type[Body], *, may_be_empty: bool = False) -> Body:
    """Raises Refused, TooLarge."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BODY_BYTES:
            raise TooLarge
    if not data and may_be_empty:
        return msgspec.convert({}, kind)
    return decoded(bytes(data), kind)


def decoded(data: bytes | msgspec.Raw, kind: type[Body]) -> Body:
    """Raises Refused."""
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `")
        raise Refused("value_error", path.rstrip("`"), text) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("json_invalid", "", f"the body is no JSON: {error}") from None
    except RecursionError:
        raise Refused("json_invalid", "", "the body is nested too deeply") from None


def _steps(path: str) -> list[str | int]:
    """`$.requests[3].pod_type` as its steps."""
    found = re.findall(r"\.([\w-]+)|\[(\d+)\]", path)
    return [int(index) if index else name for name, index in found]


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def with_errors(app: FastAPI) -> FastAPI:
    """Every failure as JSON with a `detail`, nothing of the inside in it."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return answer({"detail": error.detail}, 422)

    @app.exception_handler(TooLarge)
    async def too_large(request: Request, error: TooLarge) -> Response:
        return answer({"detail": f"expected a body of at most {MOST_BODY_BYTES} bytes"}, 413)

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        return answer({"detail": error.detail}, error.status_code)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer({"detail": "internal error"}, 500)

    return app


def body_of(kind: type) -> dict[str, Any]:
    """For `openapi_extra`: the schema of a body that FastAPI does not parse itself."""
    (schema,), parts = msgspec.json.schema_components((kind,), ref_template="#/components/schemas/{name}")
    inlined = _inlined(schema, parts)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"].rsplit("/", 1)[1]], parts)
        return {key: _inlined(value, parts) for key, value in schema.items()}
    return [_inlined(item, parts) for item in schema] if isinstance(schema, list) else schema
