"""What is measured of responses whose bodies are read: the time between pieces, and the picker's own time."""

from __future__ import annotations

from collections.abc import Sequence

from epp.api import Termination
from epp.director.director import Director
from epp.director.exchange import RequestExchange
from epp.extproc.exchange import BodyMode, RequestHead, ResponseHead
from epp.scheduling.observer import TIMED_EVERY
from tests.support.recording import value
from tests.support.service import make_director

R = {"model_name": "m", "target_model_name": "m", "fairness_id": "default-flow", "priority": "0"}


def answered(director: Director, content_type: str, pieces: Sequence[bytes], *, mode: BodyMode) -> None:
    exchange = RequestExchange(director, lambda path, wait: None)
    head = RequestHead(
        {":method": "POST", ":path": "/v1/completions"},
        end_of_stream=False,
        request_body_mode=mode,
        response_body_mode=mode,
    )
    exchange.route(head, b'{"model": "m", "prompt": "hi"}')
    exchange.response_headers(
        ResponseHead({"content-type": content_type}, status=200, end_of_stream=False), hold_allowed=True
    )
    if mode is not BodyMode.NONE:
        for number, piece in enumerate(pieces, start=1):
            exchange.response_body(piece, last=number == len(pieces))
    exchange.close(Termination.COMPLETE)


def measured(director: Director, name: str, **labels: str) -> float | None:
    return value(director.recorder, f"llm_d_epp_{name}_count", **labels)


EVENTS = [b"data: {}\n\n", b"data: {}\n\n", b"data: [DONE]\n\n"]


def test_each_piece_of_a_stream_but_the_first_gives_a_time_between_tokens() -> None:
    director = make_director("10.0.0.1:8000")

    answered(director, "text/event-stream", EVENTS, mode=BodyMode.FULL_DUPLEX_STREAMED)

    assert measured(director, "request_streaming_itl_seconds", **R) == 2


def test_pieces_of_a_long_stream_are_recorded_while_it_lasts() -> None:
    director = make_director("10.0.0.1:8000")

    answered(director, "text/event-stream", EVENTS[:1] * 600 + EVENTS, mode=BodyMode.FULL_DUPLEX_STREAMED)

    assert measured(director, "request_streaming_itl_seconds", **R) == 602


def test_a_whole_answer_in_pieces_gives_none() -> None:
    director = make_director("10.0.0.1:8000")

    answered(director, "application/json", [b"{", b"}"], mode=BodyMode.FULL_DUPLEX_STREAMED)

    assert measured(director, "request_streaming_itl_seconds", **R) == 0
    assert measured(director, "response_processing_duration_seconds") == 1


def test_one_stream_of_several_is_timed_and_stands_for_all() -> None:
    director = make_director("10.0.0.1:8000")

    for _ in range(TIMED_EVERY):
        answered(director, "text/event-stream", EVENTS, mode=BodyMode.FULL_DUPLEX_STREAMED)

    assert measured(director, "response_processing_duration_seconds") == TIMED_EVERY
    assert measured(director, "request_processing_duration_seconds") == TIMED_EVERY


def test_a_body_that_does_not_come_is_not_measured() -> None:
    director = make_director("10.0.0.1:8000")

    answered(director, "text/event-stream", EVENTS, mode=BodyMode.NONE)

    assert measured(director, "response_processing_duration_seconds") == 0
    assert measured(director, "request_streaming_itl_seconds", **R) == 0
