"""Calls parsers in tests: requests, responses of a content type, usage of a whole body."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from epp.api import Parser, Payload, Request, Response, Usage
from tests.support.plugins import make_plugin


def parse(cls: type[Parser], path: str, body: object, *, headers: Mapping[str, str] | None = None) -> Payload:
    """The payload of `body`: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return make_plugin(cls).parse_request(path, headers or {}, data)


def response(content_type: str = "application/json", **headers: str) -> Response:
    made = Response()
    made.headers = {"content-type": content_type, **{k.replace("_", "-"): v for k, v in headers.items()}}
    made.streaming = "text/event-stream" in content_type
    return made


def read_usage(
    cls: type[Parser],
    chunks: Iterable[bytes],
    *,
    path: str = "/v1/chat/completions",
    content_type: str = "application/json",
) -> Usage | None:
    reader = make_plugin(cls).usage_reader(Request("r", {":path": path}), response(content_type))
    assert reader is not None
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()
