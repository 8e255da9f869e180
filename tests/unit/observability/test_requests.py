from __future__ import annotations

import logging

import pytest

from epp.api import Payload, Prompt, Termination, Usage
from epp.observability.logs import VERBOSE
from epp.observability.requests import PickFacts, RequestLog
from tests.support.recording import make_request, make_response


def make_log(name: str, level: int, *, keep: int) -> RequestLog:
    logger = logging.getLogger(f"epp.{name}")
    logger.setLevel(level)
    return RequestLog(logger, keep=keep)


def test_a_request_becomes_one_line_with_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    log = make_log("facts", VERBOSE, keep=0)
    response = make_response(usage=Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=0))
    response.served_endpoint = "10.0.0.1:8000"

    log.request_line(make_request("m", target="t", priority=2), response, PickFacts(8, 0, 1, 3, 4))

    [record] = caplog.records
    assert (record.getMessage(), record.levelno) == ("request", VERBOSE)
    assert record.fields == {  # type: ignore[attr-defined]
        "id": "r-1",
        "model": "m",
        "target_model": "t",
        "status": 200,
        "endpoint": "10.0.0.1:8000",
        "priority": 2,
        "ttft_ms": 500.0,
        "duration_ms": 2000.0,
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "cached_tokens": 0,
        "termination": "complete",
        "prefix_blocks": 3,
        "prefix_total": 4,
        "candidates": 8,
        "queue": 0,
        "in_flight": 1,
    }


def test_below_verbosity_three_nothing_is_written_but_the_last_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    log = make_log("quiet", logging.INFO, keep=2)

    for model in ("a", "b", "c"):
        log.request_line(make_request(model), make_response(), PickFacts(1, 0, 1))

    assert caplog.records == []
    assert [(r["model"], r["queue"]) for r in log.recent()] == [("c", 0), ("b", 0)]


def test_with_nothing_to_keep_and_nothing_to_write_it_is_not_wanted() -> None:
    log = make_log("off", logging.INFO, keep=0)

    log.request_line(make_request(), make_response())

    assert (log.wanted, log.recent()) == (False, [])


def test_what_is_not_known_is_left_out() -> None:
    log = make_log("unknown", logging.INFO, keep=1)
    response = make_response()
    response.first_chunk_s = response.ended_s = None
    response.termination = Termination.CLIENT_DISCONNECT

    log.request_line(make_request(), response)

    [record] = log.recent()
    assert not {"ttft_ms", "duration_ms", "prompt_tokens"} & set(record)
    assert record["termination"] == "client-disconnect"


def test_the_prompt_is_in_no_record() -> None:
    log = make_log("secret", logging.INFO, keep=1)
    request = make_request()
    request.payload = Payload(model="m", prompts=(Prompt(b"my secret"),))

    log.request_line(request, make_response())

    assert "secret" not in str(log.recent())
