"""Latencies in responses and dynamic metadata, for those who ask."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from google.protobuf.json_format import MessageToDict

from epp.api import LATENCY_RECORD, LatencyRecord, PreRequest, Request, SchedulingResult, data_key
from epp.director.director import Director
from epp.director.latency_fields import LatencyFields
from epp.extproc.exchange import BodyMode
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.session import ExtProc, Session
from tests.support.configs import HEAD
from tests.support.extproc import POST, Replies, request_body, request_headers, response_body, response_headers
from tests.support.service import make_director

ASKED = {"x-llm-epp-latency": "1"}
SIX = {
    "ttft_ms": 59.123,
    "predicted_ttft_ms": 60.5,
    "tpot_observations_ms": [9.0, 6.0],
    "predicted_tpot_observations_ms": [7.25, 7.25],
    "avg_tpot_ms": 7.5,
    "avg_predicted_tpot_ms": 7.25,
}
NOTHING = {
    "ttft_ms": None,
    "predicted_ttft_ms": None,
    "tpot_observations_ms": [],
    "predicted_tpot_observations_ms": [],
    "avg_tpot_ms": None,
    "avg_predicted_tpot_ms": None,
}
EVENTS = (
    b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)
WHOLE = b'{"id": 1.0, "usage": {"prompt_tokens": 1}}'
CONFIG = f"{HEAD}plugins: [{{type: queue-scorer}}, {{type: told}}]\n"


class Told(PreRequest):
    """A record that is known, in place of one that is measured."""

    type = "told"
    known = True

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        record = LatencyRecord(result.target, 0.0)
        if self.known:
            record.ttft_ms, record.predicted_ttft_ms, record.predicted_tpot_ms = 59.1234, 60.5, 7.25
            record.first_content_s = 1.0
            record.came(1, 1.0)
            record.came(1, 1.009)
            record.came(1, 1.015)
            record.tpot_observations_ms = [9.0, 6.0]
        request.data[data_key(LATENCY_RECORD)] = record


class Unmeasured(Told):
    known = False


def talk(
    director: Director,
    *pieces: bytes,
    asked: dict[str, str] | None = None,
    fields: dict[str, str] | None = None,
    mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED,
) -> Replies:
    session = Session(ExtProc(director, max_body_bytes=1 << 20), lambda: None)
    sent = POST | (ASKED if asked is None else asked)
    body = json.dumps({"model": "m", "prompt": "hi"}).encode()
    request_mode = BodyMode.FULL_DUPLEX_STREAMED
    messages = [
        request_headers(sent, request_mode=request_mode, response_mode=mode),
        request_body(body, end=True),
        response_headers(fields=fields),
        *(response_body(piece, end=i == len(pieces) - 1) for i, piece in enumerate(pieces)),
    ]
    for message in messages:
        session.receive(message.SerializeToString())
    return Replies(pb.ProcessingResponse.FromString(reply) for reply in session.take())


def body_of(replies: Replies, sent: Sequence[bytes], mode: BodyMode) -> bytes:
    """What the client gets of the pieces `sent`."""
    answers = [r.response_body.response for r in replies if r.WhichOneof("response") == "response_body"]
    if mode is BodyMode.FULL_DUPLEX_STREAMED:
        return b"".join(a.body_mutation.streamed_response.body for a in answers)
    changes = [a.body_mutation for a in answers]
    return b"".join(c.body if c.WhichOneof("mutation") else piece for c, piece in zip(changes, sent, strict=True))


def director(plugin: type[Told] = Told, fields: LatencyFields = LatencyFields.ASKED) -> Director:
    made = make_director("10.0.0.1:8000", config=CONFIG, plugins=(plugin,))
    made.latency_fields = fields
    return made


def usage_of(body: bytes) -> dict[str, object]:
    [line] = [x for x in body.split(b"\n") if b'"usage"' in x]
    usage: dict[str, object] = json.loads(line.removeprefix(b"data: "))["usage"]
    return usage


MODES = [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.STREAMED, BodyMode.BUFFERED]


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_the_last_event_with_usage_gets_them(mode: BodyMode) -> None:
    pieces = [EVENTS] if mode is BodyMode.BUFFERED else [EVENTS[:80], EVENTS[80:95], EVENTS[95:]]

    replies = talk(director(), *pieces, mode=mode, fields={"content-type": "text/event-stream"})

    body = body_of(replies, pieces, mode)
    assert usage_of(body) == {"prompt_tokens": 1, "completion_tokens": 3} | SIX
    assert body.startswith(EVENTS[:60])
    assert body.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_usage_of_a_json_response_gets_them_and_the_length_is_right(mode: BodyMode) -> None:
    fields = {"content-length": str(len(WHOLE))}
    pieces = [WHOLE] if mode is BodyMode.BUFFERED else [WHOLE[:20], WHOLE[20:]]

    replies = talk(director(), *pieces, mode=mode, fields=fields)

    body = body_of(replies, pieces, mode)
    assert usage_of(body) == {"prompt_tokens": 1} | SIX
    assert body.startswith(b'{"id": 1.0, "usage": {"prompt_tokens": 1')
    if mode is BodyMode.BUFFERED:
        assert replies.headers_set("response_body")["Content-Length"] == str(len(body))


def test_they_are_dynamic_metadata_of_the_end() -> None:
    replies = talk(director(), WHOLE)

    assert json.loads(json.dumps(_struct(replies[-1])))["envoy.lb"]["llm_epp_latency"] == SIX


def test_what_is_not_known_is_null() -> None:
    body = body_of(talk(director(Unmeasured), WHOLE), [WHOLE], BodyMode.FULL_DUPLEX_STREAMED)

    assert usage_of(body) == {"prompt_tokens": 1} | NOTHING


@pytest.mark.parametrize(
    ("fields", "asked", "told"),
    [
        (LatencyFields.ASKED, {}, False),
        (LatencyFields.ASKED, {"x-llm-epp-latency": "0"}, False),
        (LatencyFields.ALWAYS, {}, True),
        (LatencyFields.NEVER, ASKED, False),
    ],
)
def test_only_those_who_shall_are_told(fields: LatencyFields, asked: dict[str, str], told: bool) -> None:
    replies = talk(director(fields=fields), WHOLE, asked=asked)

    body = body_of(replies, [WHOLE], BodyMode.FULL_DUPLEX_STREAMED)
    assert (body != WHOLE) is told
    assert ("envoy.lb" in _struct(replies[-1])) is told


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        pytest.param(WHOLE, {"content-encoding": "gzip"}, id="compressed"),
        pytest.param(WHOLE, {"content-type": "text/plain"}, id="no JSON by its type"),
        pytest.param(b'{"usage": {"a"', {}, id="cut off"),
        pytest.param(b'{"choices": []}', {}, id="no usage"),
    ],
)
def test_bytes_that_are_not_as_expected_stay(body: bytes, fields: dict[str, str]) -> None:
    assert body_of(talk(director(), body, fields=fields), [body], BodyMode.FULL_DUPLEX_STREAMED) == body


def test_without_a_record_nothing_is_added() -> None:
    plain = make_director("10.0.0.1:8000")

    assert body_of(talk(plain, WHOLE), [WHOLE], BodyMode.FULL_DUPLEX_STREAMED) == WHOLE


def test_a_model_that_was_rewritten_gets_its_name_back_as_well() -> None:
    body = b'{"model": "other", "usage": {"n": 1}}'
    asked = ASKED | {"x-llm-d-model-name-rewrite": "other"}

    out = body_of(talk(director(), body, asked=asked), [body], BodyMode.FULL_DUPLEX_STREAMED)

    assert json.loads(out) == {"model": "m", "usage": {"n": 1} | SIX}


def _struct(reply: pb.ProcessingResponse) -> dict[str, object]:
    found: dict[str, object] = MessageToDict(reply.dynamic_metadata)
    return found
