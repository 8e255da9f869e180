"""Which bodies a configuration reads, and what is said when the proxy sends others."""

from __future__ import annotations

import logging

import pytest

from epp.config import Pipeline
from epp.observability.bodies import BodyWatch, log_needs, parsers_of_responses, readers_of_pieces
from epp.observability.logs import INFO
from tests.support.service import make_director

BLIND = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: passthrough-parser}, {type: active-request-scorer}]
requestHandler: {parsers: [{pluginRef: passthrough-parser}]}
"""


def pipeline(config: str = "") -> Pipeline:
    return make_director(config=config).pipeline


def watch(counted: list[bool]) -> BodyWatch:
    return BodyWatch(counted.append, logging.getLogger("test.bodies"))


def test_parsers_read_responses_and_the_in_flight_producer_does_without() -> None:
    found = pipeline()

    assert "openai-parser" in parsers_of_responses(found)
    assert "passthrough-parser" not in parsers_of_responses(found)
    assert readers_of_pieces(found) == ()


def test_a_configuration_that_passes_everything_through_reads_nothing() -> None:
    found = pipeline(BLIND)

    assert (parsers_of_responses(found), readers_of_pieces(found)) == ((), ())


def test_bodies_that_are_read_are_counted_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[bool] = []

    watch(counted).sent(pipeline())

    assert counted == [True]
    assert caplog.records == []


def test_bodies_that_nothing_reads_are_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[bool] = []
    bodies, blind = watch(counted), pipeline(BLIND)

    for _ in range(3):
        bodies.sent(blind)

    assert counted == [False, False, False]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "epp envoy-config --response-bodies none" in record.getMessage()


def test_a_reload_changes_what_is_read() -> None:
    counted: list[bool] = []
    bodies = watch(counted)

    for config in ("", BLIND, ""):
        bodies.sent(pipeline(config))

    assert counted == [True, False, True]


@pytest.mark.parametrize(("config", "mode"), [("", "FULL_DUPLEX_STREAMED"), (BLIND, "NONE")])
def test_the_start_up_line_names_the_modes(config: str, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(INFO, "test.bodies")

    log_needs(logging.getLogger("test.bodies"), pipeline(config))

    (record,) = caplog.records
    assert record.getMessage() == "bodies"
    assert record.__dict__["fields"]["request_body_mode"] == mode
    assert record.__dict__["fields"]["response_body_mode"] == mode
