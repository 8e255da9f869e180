from __future__ import annotations

import logging

import pytest

from epp.api import WAITING_REQUESTS, Fleet, Payload, PrefixMatch, Prompt, Request, Response, Termination, Usage
from epp.observability.explain import Decisions
from epp.observability.logs import VERBOSE
from epp.observability.requests import RequestLog
from tests.support.deciding import decide
from tests.support.plugins import Clock, make_fleet
from tests.support.recording import make_request, make_response


def make_log(fleet: Fleet, *, keep: int = 10, level: int = logging.INFO) -> tuple[RequestLog, Decisions]:
    decisions = Decisions(fleet, Clock(), keep=keep)
    logger = logging.getLogger("epp.some-request")
    logger.setLevel(level)
    return RequestLog(decisions, logger), decisions


def end(log: RequestLog, decisions: Decisions, request: Request, response: Response) -> None:
    decisions.ended(request, response)
    log.request_line(request, response, "hash")


def test_a_request_becomes_one_line_with_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    fleet = make_fleet(2, **{WAITING_REQUESTS: (0, 4)})
    log, decisions = make_log(fleet, level=VERBOSE)
    request = make_request("m", target="t", priority=2)
    request.data["match"] = PrefixMatch(fleet.columns[WAITING_REQUESTS] + 3, 4, 64)
    decide(decisions, fleet, request)
    response = make_response(usage=Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=0))
    response.served_endpoint = "10.0.0.1:8000"

    end(log, decisions, request, response)

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
        "candidates": 2,
        "queue": 0,
        "in_flight": 1,
        "config": "hash",
    }


def test_where_no_decisions_are_kept_a_line_tells_what_is_known_without(caplog: pytest.LogCaptureFixture) -> None:
    fleet = make_fleet(2)
    log, decisions = make_log(fleet, keep=0, level=VERBOSE)
    request = decide(decisions, fleet)

    end(log, decisions, request, make_response())

    [record] = caplog.records
    facts = record.fields  # type: ignore[attr-defined]
    assert (facts["id"], facts["status"], facts["config"], log.recent()) == ("r-1", 200, "hash", [])


def test_below_verbosity_three_nothing_is_written_but_the_last_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    fleet = make_fleet(1)
    log, decisions = make_log(fleet, keep=2)

    for model in ("a", "b", "c"):
        end(log, decisions, decide(decisions, fleet, make_request(model)), make_response())
    decide(decisions, fleet, make_request("still on its way"))

    assert caplog.records == []
    assert [(r["model"], r["queue"]) for r in log.recent()] == [("c", 0)]


def test_what_is_not_known_is_left_out() -> None:
    fleet = make_fleet(1)
    log, decisions = make_log(fleet)
    response = make_response()
    response.first_chunk_s = response.ended_s = None
    response.termination = Termination.CLIENT_DISCONNECT

    end(log, decisions, decide(decisions, fleet), response)

    [record] = log.recent()
    assert not {"ttft_ms", "duration_ms", "prompt_tokens"} & set(record)
    assert record["termination"] == "client-disconnect"


def test_the_prompt_is_in_no_record() -> None:
    fleet = make_fleet(1)
    log, decisions = make_log(fleet)
    request = make_request()
    request.payload = Payload(model="m", prompts=(Prompt(b"my secret"),))

    end(log, decisions, decide(decisions, fleet, request), make_response())

    assert "secret" not in str(log.recent())
