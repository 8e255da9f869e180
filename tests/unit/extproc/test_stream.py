"""The ext_proc conversation, mode by mode and edge by edge."""

import pytest

from epp.api import Code, RequestError, Termination
from epp.extproc.exchange import BodyMode, Destination
from epp.extproc.stream import TABLE, Event, Phase, Stream
from tests.support.extproc import (
    POST,
    TARGET,
    HoldingExchange,
    ScriptedExchange,
    feed,
    hint,
    play,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
    take,
)

DESTINATION = "x-gateway-destination-endpoint"


@pytest.fixture
def exchange() -> ScriptedExchange:
    return ScriptedExchange()


def test_the_table_has_an_entry_for_every_phase_and_event() -> None:
    assert set(TABLE) == set(Phase)
    assert {len(row) for row in TABLE.values()} == {len(Event)}


# --- request, full duplex ------------------------------------------------------------------------------------------------


def test_nothing_is_answered_before_the_body_has_ended(exchange: ScriptedExchange) -> None:
    assert play(exchange, request_headers(), request_body(b"{"), request_body(b"}")) == []


def test_the_header_reply_carries_the_destination_twice_and_the_body_follows(exchange: ScriptedExchange) -> None:
    replies = play(exchange, request_headers(), request_body(b'{"a"'), request_body(b":1}", end=True))

    assert replies.kinds == ["request_headers", "request_body"]
    assert replies.headers_set("request_headers") == {DESTINATION: TARGET, "Content-Length": "7"}
    assert replies[0].dynamic_metadata["envoy.lb"][DESTINATION] == TARGET
    assert replies[0].request_headers.response.clear_route_cache
    assert replies.streamed("request_body") == b'{"a":1}'
    assert replies.ends("request_body") == [True]


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (1, 1), (62_000, 1), (62_001, 2), (124_000, 2), (124_001, 3)])
def test_a_body_is_sent_on_in_pieces_of_at_most_62000_bytes(exchange: ScriptedExchange, size: int, pieces: int) -> None:
    replies = play(exchange, request_headers(), request_body(b"x" * size, end=True))

    assert replies.streamed("request_body") == b"x" * size
    assert replies.ends("request_body") == [False] * (pieces - 1) + [True]


def test_trailers_end_the_body_and_are_answered_after_it(exchange: ScriptedExchange) -> None:
    replies = play(exchange, request_headers(), request_body(b"hello"), request_trailers())

    assert exchange.body == b"hello"
    assert replies.kinds == ["request_headers", "request_body", "request_trailers"]
    assert replies.ends("request_body") == [False]


def test_headers_only_requests_are_decided_at_once(exchange: ScriptedExchange) -> None:
    replies = play(exchange, request_headers({":method": "GET", ":path": "/v1/models"}, end=True))

    assert exchange.body is None
    assert replies.kinds == ["request_headers"]
    assert replies.headers_set("request_headers") == {DESTINATION: TARGET}


def test_a_changed_body_replaces_the_one_that_came(exchange: ScriptedExchange) -> None:
    exchange.destination = Destination(TARGET, body=b"changed", set_headers={"x-more": "1"})

    replies = play(exchange, request_headers(), request_body(b"original", end=True))

    assert replies.streamed("request_body") == b"changed"
    assert replies.headers_set("request_headers")["Content-Length"] == "7"
    assert replies.headers_set("request_headers")["x-more"] == "1"


def test_a_repeated_last_chunk_is_ignored(exchange: ScriptedExchange) -> None:
    # Envoy 1.35 and later send it for large bodies; the Go EPP then parses an empty body and answers 400.
    replies = play(exchange, request_headers(), request_body(b"{}", end=True), request_body(b"", end=True))

    assert exchange.routes == 1
    assert replies.kinds == ["request_headers", "request_body"]


def test_the_latest_subset_hint_wins_and_messages_without_one_keep_it(exchange: ScriptedExchange) -> None:
    later = request_body(b"{}")
    hint(later, ["10.0.0.2:8000", 7])

    play(exchange, request_headers(subset=["10.0.0.1:8000"]), later, request_body(b"", end=True))

    assert exchange.head is not None
    assert exchange.head.subset == ["10.0.0.2:8000"]


def test_a_subset_hint_that_is_not_a_list_is_no_hint(exchange: ScriptedExchange) -> None:
    message = request_headers(end=True)
    message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update(
        {"x-gateway-destination-endpoint-subset": "10.0.0.1:8000"}
    )

    play(exchange, message)

    assert exchange.head is not None
    assert exchange.head.subset is None


def test_of_repeated_headers_the_last_is_read_and_odd_bytes_survive(exchange: ScriptedExchange) -> None:
    message = request_headers({"x-a": "1"}, end=True)
    message.request_headers.headers.headers.add(key="X-A", raw_value=b"\xff\xfe")
    message.request_headers.headers.headers.add(key="x-b", value="plain")

    play(exchange, message)

    assert exchange.head is not None
    assert exchange.head.headers["x-a"].encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert exchange.head.headers["x-b"] == "plain"


# --- request, other modes ------------------------------------------------------------------------------------------------


def test_buffered_lets_the_headers_pass_and_routes_with_the_body(exchange: ScriptedExchange) -> None:
    stream = Stream(exchange, max_body_bytes=1000)

    first = feed(stream, request_headers(request_mode=BodyMode.BUFFERED))
    second = feed(stream, request_body(b"{}", end=True))

    assert first.kinds == ["request_headers"]
    assert first.headers_set("request_headers") == {}
    assert second.kinds == ["request_body"]
    assert second.headers_set("request_body") == {DESTINATION: TARGET}
    assert second[0].dynamic_metadata["envoy.lb"][DESTINATION] == TARGET
    assert not second[0].request_body.response.HasField("body_mutation")


def test_a_buffered_body_may_be_replaced(exchange: ScriptedExchange) -> None:
    exchange.destination = Destination(TARGET, body=b"other")

    replies = play(exchange, request_headers(request_mode=BodyMode.BUFFERED), request_body(b"{}", end=True))

    assert replies[1].request_body.response.body_mutation.body == b"other"
    assert replies.headers_set("request_body")["Content-Length"] == "5"


def test_a_buffered_body_with_trailers_is_routed_before_them(exchange: ScriptedExchange) -> None:
    replies = play(exchange, request_headers(request_mode=BodyMode.BUFFERED), request_body(b"{}"), request_trailers())

    assert replies.kinds == ["request_headers", "request_body", "request_trailers"]


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.NONE, BodyMode.BUFFERED_PARTIAL, BodyMode.GRPC])
def test_other_request_modes_are_decided_on_the_headers(exchange: ScriptedExchange, mode: BodyMode) -> None:
    replies = play(
        exchange,
        request_headers(request_mode=mode, response_mode=BodyMode.NONE),
        request_body(b"abc"),
        request_body(b"", end=True),
    )

    assert exchange.body is None
    assert replies.kinds == ["request_headers", "request_body", "request_body"]
    assert replies.headers_set("request_headers") == {DESTINATION: TARGET}
    assert all(not r.request_body.response.HasField("body_mutation") for r in replies[1:])


def test_streamed_chunks_that_come_while_deciding_are_answered_after_the_headers(exchange: ScriptedExchange) -> None:
    exchange.destination = None
    stream = Stream(exchange, max_body_bytes=1000)
    assert feed(stream, request_headers(request_mode=BodyMode.STREAMED), request_body(b"a"), request_trailers()) == []

    stream.routed(Destination(TARGET))

    assert take(stream).kinds == ["request_headers", "request_body", "request_trailers"]


def test_a_mode_of_a_later_envoy_is_treated_as_streamed(exchange: ScriptedExchange) -> None:
    message = request_headers()
    message.protocol_config.request_body_mode = 42  # type: ignore[assignment]

    assert play(exchange, message, request_body(b"", end=True)).kinds == ["request_headers", "request_body"]


# --- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.BAD_REQUEST, 400),
        (Code.UNAUTHORIZED, 401),
        (Code.FORBIDDEN, 403),
        (Code.NOT_FOUND, 404),
        (Code.PRECONDITION_FAILED, 412),
        (Code.PAYLOAD_TOO_LARGE, 413),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.INTERNAL, 500),
        (Code.SERVICE_UNAVAILABLE, 503),
    ],
)
def test_a_refusal_has_the_go_epps_status_and_text(exchange: ScriptedExchange, code: Code, status: int) -> None:
    exchange.route_error = RequestError(code, "why", headers={"x-llm-d-request-dropped-reason": "because"})

    replies = play(exchange, request_headers(), request_body(b"{}", end=True))

    assert replies.immediate == (status, f"inference error: {code.value} - why")
    assert replies.headers_set("immediate_response") == {"x-llm-d-request-dropped-reason": "because"}
    assert exchange.closed == [Termination.ERROR]


def test_an_unexpected_exception_becomes_500_and_keeps_its_text(exchange: ScriptedExchange) -> None:
    exchange.route_error = KeyError("secret")

    replies = play(exchange, request_headers(end=True))

    assert replies.immediate == (500, "inference error: Internal - the request could not be handled")
    assert exchange.failures == ["request"]
    assert exchange.closed == [Termination.ERROR]


def test_grpc_clients_get_a_grpc_status(exchange: ScriptedExchange) -> None:
    exchange.route_error = RequestError(Code.RESOURCE_EXHAUSTED, "full")

    replies = play(exchange, request_headers({**POST, "content-type": "application/grpc"}, end=True))

    assert replies[0].immediate_response.grpc_status.status == 8


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_413(exchange: ScriptedExchange, declared: bool) -> None:
    fields = {**POST, "content-length": "11"} if declared else POST
    messages = [request_headers(fields)] + ([] if declared else [request_body(b"x" * 11)])

    replies = play(exchange, *messages, max_body_bytes=10)

    assert replies.immediate == (413, "inference error: PayloadTooLarge - request body is larger than 10 bytes")
    assert exchange.closed == [Termination.ERROR]


def test_after_a_refusal_everything_is_ignored(exchange: ScriptedExchange) -> None:
    exchange.route_error = RequestError(Code.BAD_REQUEST, "no")
    stream = Stream(exchange, max_body_bytes=1000)
    feed(stream, request_headers(end=True))

    rest = feed(stream, request_body(b"x"), response_headers(), response_body(b"y", end=True))

    assert rest == []
    assert stream.finished
    assert exchange.closed == [Termination.ERROR]


def test_a_decision_that_waits_may_fail(exchange: ScriptedExchange) -> None:
    exchange.destination = None
    stream = Stream(exchange, max_body_bytes=1000)
    feed(stream, request_headers(end=True))

    stream.refused(RequestError(Code.SERVICE_UNAVAILABLE, "none"))

    assert take(stream).immediate == (503, "inference error: ServiceUnavailable - none")


def test_a_decision_that_comes_too_late_changes_nothing(exchange: ScriptedExchange) -> None:
    exchange.destination = None
    stream = Stream(exchange, max_body_bytes=1000)
    feed(stream, request_headers(end=True))
    stream.aborted()

    stream.routed(Destination(TARGET))

    assert take(stream) == []
    assert exchange.closed == [Termination.CLIENT_DISCONNECT]


def test_envoys_own_answer_while_deciding_ends_the_exchange(exchange: ScriptedExchange) -> None:
    exchange.destination = None
    stream = Stream(exchange, max_body_bytes=1000)
    feed(stream, request_headers(end=True))

    replies = feed(stream, response_headers(504), response_body(b"timeout", end=True))

    assert replies.kinds == ["response_headers", "response_body"]
    assert replies.streamed("response_body") == b"timeout"
    assert exchange.closed == [Termination.CLIENT_DISCONNECT]


# --- response ------------------------------------------------------------------------------------------------------------


def routed(exchange: ScriptedExchange, response_mode: BodyMode | None = None) -> Stream:
    stream = Stream(exchange, max_body_bytes=1000)
    mode = None if response_mode is None else BodyMode.FULL_DUPLEX_STREAMED
    feed(stream, request_headers(request_mode=mode, response_mode=response_mode), request_body(b"{}", end=True))
    return stream


def test_response_headers_are_marked_and_the_served_endpoint_is_read(exchange: ScriptedExchange) -> None:
    replies = feed(routed(exchange), response_headers(200, served="10.0.0.9:8000"))

    assert replies.headers_set("response_headers") == {"x-went-into-resp-headers": "true"}
    assert exchange.response_head is not None
    assert exchange.response_head.served == "10.0.0.9:8000"
    assert exchange.response_head.status == 200


def test_response_chunks_are_passed_on_as_they_come(exchange: ScriptedExchange) -> None:
    stream = routed(exchange)
    feed(stream, response_headers())

    first = feed(stream, response_body(b"data: 1\n\n"))
    last = feed(stream, response_body(b"", end=True))

    assert (first.streamed("response_body"), first.ends("response_body")) == (b"data: 1\n\n", [False])
    assert (last.streamed("response_body"), last.ends("response_body")) == (b"", [True])
    assert exchange.closed == [Termination.COMPLETE]


def test_response_trailers_end_the_response(exchange: ScriptedExchange) -> None:
    replies = feed(routed(exchange), response_headers(), response_body(b"x"), response_trailers())

    assert replies.kinds == ["response_headers", "response_body", "response_trailers"]
    assert exchange.closed == [Termination.COMPLETE]


def test_a_response_without_a_body_ends_with_its_headers(exchange: ScriptedExchange) -> None:
    feed(routed(exchange), response_headers(204, end=True))

    assert exchange.closed == [Termination.COMPLETE]


def test_a_held_full_duplex_body_comes_out_at_its_end() -> None:
    exchange = HoldingExchange()
    stream = routed(exchange)
    feed(stream, response_headers())

    replies = feed(stream, response_body(b"ab"), response_body(b"c" * 70_000, end=True))

    assert replies.streamed("response_body") == b"AB" + b"C" * 70_000
    assert replies.ends("response_body") == [False, True]


def test_a_held_full_duplex_body_comes_out_before_the_trailers() -> None:
    stream = routed(HoldingExchange())
    feed(stream, response_headers(), response_body(b"ab"))

    replies = feed(stream, response_trailers())

    assert replies.kinds == ["response_body", "response_trailers"]
    assert replies.streamed("response_body") == b"AB"
    assert replies.ends("response_body") == [False]


def test_each_streamed_chunk_has_exactly_one_answer() -> None:
    exchange = HoldingExchange()
    stream = routed(exchange, BodyMode.STREAMED)
    feed(stream, response_headers(fields={"content-length": "3"}))

    replies = feed(stream, response_body(b"ab"), response_body(b"c", end=True))

    assert replies.kinds == ["response_body", "response_body"]
    assert replies[0].response_body.response.body_mutation.clear_body
    assert replies[1].response_body.response.body_mutation.body == b"ABC"


def test_streamed_bodies_of_unknown_length_must_not_be_held(exchange: ScriptedExchange) -> None:
    feed(routed(exchange, BodyMode.STREAMED), response_headers())

    assert exchange.hold_allowed is False


def test_untouched_streamed_chunks_are_not_sent_back(exchange: ScriptedExchange) -> None:
    replies = feed(routed(exchange, BodyMode.STREAMED), response_headers(), response_body(b"abc", end=True))

    assert not replies[1].response_body.response.HasField("body_mutation")


def test_a_buffered_response_may_be_replaced_even_before_trailers() -> None:
    exchange = HoldingExchange()

    replies = feed(routed(exchange, BodyMode.BUFFERED), response_headers(), response_body(b"ab"), response_trailers())

    assert replies[1].response_body.response.body_mutation.body == b"AB"
    assert replies.headers_set("response_body") == {"Content-Length": "2"}
    assert replies.kinds == ["response_headers", "response_body", "response_trailers"]
    assert exchange.closed == [Termination.COMPLETE]


def test_without_response_bodies_the_end_of_the_stream_is_the_end_of_the_response(exchange: ScriptedExchange) -> None:
    stream = routed(exchange, BodyMode.NONE)
    feed(stream, response_headers())
    assert exchange.closed == []

    stream.half_closed()

    assert exchange.closed == [Termination.COMPLETE]


def test_a_stream_that_ends_within_a_body_is_a_disconnect(exchange: ScriptedExchange) -> None:
    stream = routed(exchange)
    feed(stream, response_headers(), response_body(b"half"))

    stream.half_closed()

    assert exchange.closed == [Termination.CLIENT_DISCONNECT]


def test_a_failing_response_hook_leaves_the_response_untouched(exchange: ScriptedExchange) -> None:
    exchange.response_error = ZeroDivisionError()

    replies = feed(routed(exchange), response_headers(), response_body(b"abc", end=True))

    assert replies.streamed("response_body") == b"abc"
    assert exchange.failures == ["response headers", "response body"]
    assert exchange.closed == [Termination.COMPLETE]


def test_a_request_of_no_further_interest_ends_the_conversation(exchange: ScriptedExchange) -> None:
    exchange.destination = Destination(TARGET, skip_response=True)
    stream = routed(exchange)

    assert stream.finished
    assert exchange.closed == [Termination.COMPLETE]


# --- out of place --------------------------------------------------------------------------------------------------------


def test_messages_of_unknown_kind_are_ignored(exchange: ScriptedExchange) -> None:
    stream = Stream(exchange, max_body_bytes=1000)

    assert feed(stream, type(request_headers())()) == []
    assert stream.phase is Phase.START


def test_a_body_without_headers_is_told_how_to_configure_envoy(exchange: ScriptedExchange) -> None:
    status, text = play(exchange, request_body(b"x")).immediate

    assert status == 500
    assert "request_header_mode" in text


def test_a_response_without_a_request_passes(exchange: ScriptedExchange) -> None:
    replies = play(exchange, response_headers(), response_body(b"x", end=True), response_trailers())

    assert replies.kinds == ["response_headers", "response_body", "response_trailers"]
    assert replies.streamed("response_body") == b"x"


def test_repeated_headers_are_acknowledged_and_counted(exchange: ScriptedExchange) -> None:
    stream = Stream(exchange, max_body_bytes=1000)

    replies = feed(stream, request_headers(), request_headers(), request_body(b"{}", end=True))

    assert replies.kinds == ["request_headers", "request_headers", "request_body"]
    assert stream.unexpected == 1
