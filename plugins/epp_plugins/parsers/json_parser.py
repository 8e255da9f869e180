"""What the parsers of JSON APIs share: usage and model names in JSON answers and in server-sent events."""

from __future__ import annotations

from typing import ClassVar, Literal

from epp.api import Parser, Request, Response, UsageReader
from epp_plugins.parsers.json_model import restore_model
from epp_plugins.parsers.json_usage import JsonUsageReader
from epp_plugins.parsers.sse import SseUsageReader, restore_model_in_events


def body_form(response: Response) -> Literal["json", "events"] | None:
    """How the response's body can be read, from its headers; None: not at all."""
    if response.headers.get("content-encoding", "identity") not in ("", "identity"):
        return None
    content_type = response.headers.get("content-type", "").lower()
    if "text/event-stream" in content_type:
        return "events"
    if content_type:
        return "json" if "json" in content_type else None
    return "events" if response.streaming else "json"


class JsonParser(Parser):
    """Base of the parsers of JSON APIs. `inner` is the member of an event's data that may name the model, too."""

    inner: ClassVar[bytes] = b"response"

    def usage_reader(self, request: Request, response: Response) -> UsageReader | None:
        match body_form(response):
            case "events":
                return SseUsageReader()
            case "json":
                return JsonUsageReader()
        return None

    def restore_model(self, body: bytes, *, sent: str, asked: str) -> bytes:
        if sent == asked:
            return body
        if body.lstrip()[:1] == b"{":
            return restore_model(body, sent=sent, asked=asked)
        return restore_model_in_events(body, sent=sent, asked=asked, inner=self.inner)
