"""A recorder, requests for it, and a reader of the page it makes."""

from __future__ import annotations

import re
from typing import Any

from epp.api import Request, Response, Usage
from epp.observability.metrics import Recorder
from tests.support.plugins import Clock

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def make_recorder(clock: Clock | None = None, **options: Any) -> Recorder:
    return Recorder(clock or Clock(), process=False, **options)


def make_request(
    model: str = "m", *, target: str = "", fairness_id: str = "default-flow", priority: int = 0
) -> Request:
    request = Request("r-1", {}, received_s=10.0)
    request.incoming_model = model
    request.model = target or model
    request.fairness_id = fairness_id
    request.priority = priority
    request.size_bytes = 500
    return request


def make_response(*, status: int = 200, streaming: bool = True, usage: Usage | None = None) -> Response:
    """Received at 10 s, first chunk at 10.5 s, ended at 12 s."""
    response = Response()
    response.status = status
    response.streaming = streaming
    response.body_seen = True
    response.size_bytes = 900
    response.first_chunk_s = 10.5
    response.last_chunk_s = 12.0
    response.ended_s = 12.0
    response.usage = usage
    return response


def read_page(recorder: Recorder) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the page by name and labels."""
    samples = {}
    for line in recorder.render()[0].decode().splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is not None:
            samples[match[1], frozenset(_LABEL.findall(match[2] or ""))] = float(match[3])
    return samples


def value(recorder: Recorder, name: str, /, **labels: str) -> float | None:
    """One sample, None when the page has none with exactly these labels."""
    return read_page(recorder).get((name, frozenset(labels.items())))
