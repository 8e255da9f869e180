"""Whatever Envoy sends, in whatever order: nothing escapes, and the exchange is closed once."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from epp.api import Code, RequestError
from epp.extproc.exchange import BodyMode, Destination
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.extproc.stream import Stream
from tests.support.extproc import (
    TARGET,
    HoldingExchange,
    ScriptedExchange,
    play,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
)

modes = st.sampled_from(list(BodyMode))
messages = st.one_of(
    st.builds(request_headers, end=st.booleans(), request_mode=modes, response_mode=modes),
    st.builds(request_headers, end=st.booleans()),
    st.builds(request_body, st.binary(max_size=40), end=st.booleans()),
    st.builds(request_trailers),
    st.builds(response_headers, st.sampled_from([200, 204, 500]), end=st.booleans()),
    st.builds(response_body, st.binary(max_size=40), end=st.booleans()),
    st.builds(response_trailers),
    st.builds(pb.ProcessingRequest),
)
outcomes = st.sampled_from(["routed", "refused", "half_closed", "aborted"])
outcome_errors = st.sampled_from([None, RequestError(Code.BAD_REQUEST, "no"), ValueError("defect")])


@given(
    steps=st.lists(st.one_of(messages, outcomes), max_size=14),
    waits=st.booleans(),
    holds=st.booleans(),
    error=outcome_errors,
)
def test_any_order_of_events_ends_in_exactly_one_close(
    steps: list[pb.ProcessingRequest | str], waits: bool, holds: bool, error: Exception | None
) -> None:
    exchange = HoldingExchange() if holds else ScriptedExchange()
    exchange.destination = None if waits else Destination(TARGET)
    exchange.route_error = error
    stream = Stream(exchange, max_body_bytes=60)

    for step in steps:
        if isinstance(step, pb.ProcessingRequest):
            stream.receive(step.SerializeToString())
        elif step == "routed":
            stream.routed(Destination(TARGET))
        elif step == "refused":
            stream.refused(ValueError("late"))
        else:
            getattr(stream, step)()
        for reply in stream.replies:
            assert pb.ProcessingResponse.FromString(reply).WhichOneof("response") is not None
        stream.replies.clear()
    stream.aborted()

    assert len(exchange.closed) == 1
    assert stream.finished


@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8), by_trailers=st.booleans())
def test_any_chunking_of_a_request_body_is_read_and_sent_on_alike(
    body: bytes, cuts: list[int], by_trailers: bool
) -> None:
    exchange = ScriptedExchange()
    edges = [0, *sorted(min(c, len(body)) for c in cuts), len(body)]
    chunks = [body[a:b] for a, b in itertools.pairwise(edges)]
    sent = [request_body(c, end=not by_trailers and i == len(chunks) - 1) for i, c in enumerate(chunks)]

    replies = play(exchange, request_headers(), *sent, *([request_trailers()] if by_trailers else []))

    assert exchange.body == body
    assert replies.streamed("request_body") == body


@given(chunks=st.lists(st.binary(max_size=50), max_size=8), mode=modes, trailers=st.booleans())
def test_every_response_byte_is_sent_on_in_every_mode(chunks: list[bytes], mode: BodyMode, trailers: bool) -> None:
    exchange = ScriptedExchange()
    sent = [response_body(c, end=not trailers and i == len(chunks) - 1) for i, c in enumerate(chunks)]

    replies = play(
        exchange,
        request_headers(request_mode=BodyMode.FULL_DUPLEX_STREAMED, response_mode=mode),
        request_body(b"{}", end=True),
        response_headers(),
        *sent,
        *([response_trailers()] if trailers else []),
    )

    if mode is BodyMode.FULL_DUPLEX_STREAMED:
        assert replies.streamed("response_body") == b"".join(chunks)
    else:
        answers = [r for r in replies if r.WhichOneof("response") == "response_body"]
        assert len(answers) == len(chunks)
        assert not any(r.response_body.response.HasField("body_mutation") for r in answers)
