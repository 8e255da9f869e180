"""Plugins that raise, return nonsense, or write nonsense, at every extension point: requests are answered nevertheless.

Each goes through a session as both transports use it; what the proxy is told can be read, nothing stays counted, and the
pages that tell of the request can be made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Final

import numpy as np
import pytest

from epp.api import (
    PREFIX_MATCH,
    Admitter,
    Code,
    DataProducer,
    EndpointListener,
    Filter,
    Parser,
    Payload,
    Picker,
    Plugin,
    PrefixMatch,
    PreRequest,
    ProfileHandler,
    RequestError,
    RequestHeaderProcessor,
    ResponseComplete,
    ResponseEnding,
    ResponseReceived,
    ResponseStreaming,
    SaturationDetector,
    SchedulingResult,
    Scorer,
    Screener,
    Usage,
    data_key,
)
from epp.director.director import Director
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.observability.explanation import explanation, one_line
from epp.server.session import ExtProc
from tests.support.configs import HEAD
from tests.support.extproc import POST, Replies, request_body, request_headers, response_body, response_headers
from tests.support.service import in_flight, make_director

COSTS_ITSELF: Final[dict[type[Plugin], str]] = {
    Filter: "keep",
    Scorer: "score",
    Picker: "pick",
    Screener: "screen",
    DataProducer: "produce",
    PreRequest: "pre_request",
    ResponseReceived: "response_received",
    ResponseStreaming: "response_chunk",
    ResponseEnding: "response_ending",
    ResponseComplete: "response_complete",
    EndpointListener: "endpoint_added",
    SaturationDetector: "saturation",
}
MAY_REFUSE: Final[dict[type[Plugin], str]] = {
    RequestHeaderProcessor: "process_request_header",
    Admitter: "admit",
    ProfileHandler: "pick_profiles",
}


def raising(error: BaseException) -> Callable[..., Any]:
    def behave(*_: object) -> Any:
        raise error

    return behave


def returning(value: object) -> Callable[..., Any]:
    return lambda *_: value


def endless(*_: object) -> Any:
    return endless()


class Later:
    """Something to await that fails. Not a coroutine: where nothing waits, Python would warn of those."""

    def __await__(self) -> Generator[None, None, None]:
        yield
        raise RuntimeError("later")


NONSENSE: Final[dict[str, Callable[..., Any]]] = {
    "raises": raising(ValueError("no")),
    "raises StopIteration": raising(StopIteration("no")),
    "raises MemoryError": raising(MemoryError()),
    "recurses without end": endless,
    "has to be awaited": lambda *_: Later(),
    **{
        f"returns {name}": returning(value)
        for name, value in {
            "nothing": None,
            "a number": 5,
            "a huge number": 10**400,
            "NaN": float("nan"),
            "true": True,
            "false": False,
            "text": "text",
            "bytes": b"x",
            "an empty list": [],
            "too few": [1],
            "too many": [True, False, True],
            "out of range": [5],
            "fractions": [0.5, 0.25],
            "NaNs": [float("nan")] * 2,
            "infinities": [float("inf"), -1.0],
            "texts": ["a", "b"],
            "huge numbers": [10**400, 1],
            "lists": [[1], [2]],
            "a mapping": {"a": 1},
            "two dimensions": np.zeros((2, 2)),
            "complex numbers": np.array([1 + 2j, 0]),
            "an object": object(),
            "objects": [object(), object()],
        }.items()
    },
}


def make(point: type[Plugin], **members: Any) -> type[Plugin]:
    return type("Nonsense", (point,), {"type": "nonsense", **members})


class Outcome:
    """One conversation: what the proxy was told, and whether the rest of the service is well afterwards."""

    def __init__(self, director: Director, replies: Replies) -> None:
        self.director = director
        self.replies = replies

    @property
    def status(self) -> int:
        """Of an immediate response; 0 when the request goes on."""
        found = [r.immediate_response.status.code for r in self.replies if r.HasField("immediate_response")]
        return int(found[0]) if found else 0


async def converse(plugin: type[Plugin], *, more: str = "") -> Outcome:
    config = f"{HEAD}plugins:\n- type: nonsense\n- type: queue-scorer\n- type: prefix-cache-scorer\n{more}"
    director = make_director("10.0.0.1:8000", "10.0.0.2:8000", config=config, plugins=(plugin,), keep=10)
    director.explain_header = True
    woken = asyncio.Event()
    session = ExtProc(director, max_body_bytes=1 << 20).session(woken.set)
    replies = Replies()

    def say(*messages: pb.ProcessingRequest) -> None:
        for message in messages:
            session.receive(message.SerializeToString())
            replies.extend(pb.ProcessingResponse.FromString(reply) for reply in session.take())

    say(request_headers({**POST, "x-llm-epp-explain": "1"}), request_body(b'{"model":"m","prompt":"hello"}', end=True))
    if session.waiting:
        async with asyncio.timeout(60):
            await woken.wait()
        replies.extend(pb.ProcessingResponse.FromString(reply) for reply in session.take())
    outcome = Outcome(director, replies)
    if not outcome.status:
        say(response_headers(), response_body(b'{"usage": {"prompt_tokens": 3, '), response_body(b'"x": 1}}', end=True))
    session.close("OK")
    return outcome


def check_the_rest(outcome: Outcome) -> None:
    director = outcome.director
    assert in_flight(director) == 0
    for decision in director.decisions.last(5):
        assert explanation(decision)
        assert one_line(decision)
    assert director.request_log.recent()
    assert director.recorder.render()


def the_response_passed(outcome: Outcome) -> bool:
    return b"".join(r.response_body.response.body_mutation.streamed_response.body for r in outcome.replies).endswith(
        b"}}"
    )


@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("point", COSTS_ITSELF, ids=lambda p: p.__name__)
async def test_a_plugin_costs_its_own_contribution_only(point: type[Plugin], nonsense: str) -> None:
    more = "saturationDetector: {pluginRef: nonsense}\n" if point is SaturationDetector else ""

    outcome = await converse(make(point, **{COSTS_ITSELF[point]: lambda _, *a: NONSENSE[nonsense](*a)}), more=more)

    assert outcome.status == 0
    assert the_response_passed(outcome)
    check_the_rest(outcome)


@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("point", MAY_REFUSE, ids=lambda p: p.__name__)
async def test_where_refusing_is_its_business_a_plugin_costs_the_request_at_most(
    point: type[Plugin], nonsense: str
) -> None:
    outcome = await converse(make(point, **{MAY_REFUSE[point]: lambda _, *a: NONSENSE[nonsense](*a)}))

    assert outcome.status in (0, 429, 500)
    check_the_rest(outcome)


# --- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "headers", "status"),
    [
        ((Code.BAD_REQUEST, "a\nb\x00\ud800"), {}, 400),
        ((Code.RESOURCE_EXHAUSTED, "x" * 100_000), {}, 429),
        ((Code.BAD_REQUEST, "x"), {"x-a": "a\nb", "bad name": "x", "": "x", "x-b": 5}, 400),
        ((Code.BAD_REQUEST, "x"), 5, 400),
        ((Code.BAD_REQUEST, None), {}, 500),
        (("nope", "x"), {}, 500),
    ],
)
async def test_a_refusal_with_nonsense_is_a_refusal(arguments: Any, headers: Any, status: int) -> None:
    def refuse(*_: object) -> None:
        raise RequestError(*arguments, headers=headers)

    outcome = await converse(make(Admitter, admit=refuse))

    assert outcome.status == status
    [reply] = [r for r in outcome.replies if r.HasField("immediate_response")]
    assert {h.header.key for h in reply.immediate_response.headers.set_headers} <= {"x-llm-epp-explained"}
    check_the_rest(outcome)


# --- what is written -----------------------------------------------------------------------------------------------------

BAD_HEADERS: Final[list[tuple[Any, Any]]] = [
    *(("x-a", value) for value in (5, None, b"bytes", "a\nb", "a\rb", "a\x00b", "\ud800", [], {})),
    *((name, "x") for name in ("", "bad name", "a:b", "ä", 5, None)),
]


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS)
async def test_headers_that_cannot_be_sent_are_left_out_and_others_stay(name: Any, value: Any) -> None:
    def ask(_: Plugin, request: Any, *others: Any) -> None:
        request.set_headers |= {name: value, "x-good": "\x41\udcff"}

    def answer(_: Plugin, request: Any, response: Any) -> None:
        response.set_headers |= {name: value, "x-good": "yes"}

    for plugin in (make(PreRequest, pre_request=ask), make(ResponseReceived, response_received=answer)):
        outcome = await converse(plugin)

        assert outcome.status == 0
        assert the_response_passed(outcome)
        told = [
            header.header.key
            for reply in outcome.replies
            for part in (reply.request_headers, reply.response_headers)
            for header in part.response.header_mutation.set_headers
        ]
        assert "x-good" in told
        assert name not in told
        check_the_rest(outcome)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        5,
        {"a": 5},
        {5: {"b": 1}},
        {"a": {1: 2}},
        {"a": {"b": object()}},
        {"a": {"b": 10**400}},
        {"a": {"b": "\ud800"}},
        {"\ud800": {"b": 1}},
        {"a": {"b": b"bytes"}},
    ],
)
async def test_metadata_that_cannot_be_sent_are_left_out(metadata: Any) -> None:
    def end(_: Plugin, request: Any, response: Any) -> None:
        response.dynamic_metadata = metadata

    outcome = await converse(make(ResponseEnding, response_ending=end))

    assert outcome.status == 0
    assert the_response_passed(outcome)
    assert not outcome.replies[-1].dynamic_metadata
    check_the_rest(outcome)


async def test_metadata_that_loop_are_left_out_and_others_are_sent() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop

    def end(_: Plugin, request: Any, response: Any) -> None:
        response.dynamic_metadata = {"bad": loop, "good": {"a": [1, None, True, "ü", {"b": 2.5}]}}

    outcome = await converse(make(ResponseEnding, response_ending=end))

    assert list(outcome.replies[-1].dynamic_metadata) == ["good"]


@pytest.mark.parametrize(
    "published",
    [
        "text",
        None,
        PrefixMatch([1, 2], 3, 4),  # type: ignore[arg-type]
        PrefixMatch(None, None, None),  # type: ignore[arg-type]
        PrefixMatch(np.zeros(1), 3, 4),
        PrefixMatch(np.zeros(8), -1, 0),
        PrefixMatch(np.full(8, np.nan), 2, 4),
        PrefixMatch(np.array(["a"] * 8), 2, 4),
        PrefixMatch(np.zeros((8, 2)), 1, 1),
    ],
    ids=repr,
)
async def test_nonsense_as_data_is_no_data(published: Any) -> None:
    def produce(_: Plugin, request: Any, candidates: Any) -> None:
        request.data[data_key(PREFIX_MATCH)] = published

    outcome = await converse(make(DataProducer, produce=produce, produces=lambda _: (data_key(PREFIX_MATCH),)))

    assert outcome.status == 0
    check_the_rest(outcome)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fairness_id", 5), ("priority", "high"), ("priority", 10**30), ("model", None), ("payload", None)],
)
async def test_nonsense_in_the_request_costs_the_request_at_most(field: str, value: Any) -> None:
    plugin = make(RequestHeaderProcessor, process_request_header=lambda _, request: setattr(request, field, value))

    outcome = await converse(plugin)

    assert outcome.status in (0, 500)
    assert in_flight(outcome.director) == 0


@pytest.mark.parametrize("destination", [5, "a\nb", "10.0.0.1:8000\r\nx: y", "ü"])
async def test_a_destination_that_is_none_refuses_the_request(destination: Any) -> None:
    handler = make(
        ProfileHandler,
        pick_profiles=lambda *_: ("default",),
        process_results=lambda _, request, results: SchedulingResult(results, "default", destination=destination),
    )

    outcome = await converse(handler)

    assert outcome.status == 500
    check_the_rest(outcome)


# --- parsers -------------------------------------------------------------------------------------------------------------


class Reader:
    """A usage reader that fails, or finds nonsense."""

    def __init__(self, found: Any, *, error: bool = False) -> None:
        self._found = found
        self._error = error

    def feed(self, chunk: bytes) -> None:
        if self._error:
            raise ValueError("no")

    def finish(self) -> Any:
        if self._error:
            raise ValueError("no")
        return self._found


READERS: Final[dict[str, Any]] = {
    "a number": 5,
    "fails": Reader(None, error=True),
    "finds a mapping": Reader({"prompt_tokens": 3}),
    "finds nonsense": Reader(Usage(prompt_tokens=-5, completion_tokens="x", cached_tokens=float("nan"))),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("reader", READERS)
async def test_a_usage_reader_costs_the_usage_only(reader: str) -> None:
    parser = make(Parser, parse_request=lambda *_: Payload(model="m"), usage_reader=lambda *_: READERS[reader])

    outcome = await converse(parser, more="requestHandler: {parsers: [{pluginRef: nonsense}]}\n")

    assert outcome.status == 0
    assert the_response_passed(outcome)
    check_the_rest(outcome)


@pytest.mark.parametrize(
    "payload", [None, "text", Payload(model="m", prompts=None), Payload(model="m", prompts=("a",))]
)  # type: ignore[arg-type]
async def test_a_payload_that_is_none_refuses_the_request(payload: Any) -> None:
    outcome = await converse(
        make(Parser, parse_request=lambda *_: payload), more="requestHandler: {parsers: [{pluginRef: nonsense}]}\n"
    )

    assert outcome.status == 500
    assert in_flight(outcome.director) == 0
