"""SLO headers: what is no latency is ignored, and counted."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from math import inf
from time import monotonic

import pytest

from epp.api import NO_SLO, Fleet, Handle, Slo
from epp.observability.metrics import Recorder
from epp_plugins.latency.slo import SloReader
from tests.support.plugins import make_handle
from tests.support.scheduling import make_request

TTFT, TPOT = "x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms"


def read(headers: Mapping[str, str]) -> Slo:
    return SloReader(make_handle()).read(make_request(headers=headers))


def test_without_headers_nothing_is_made() -> None:
    assert read({"x-other": "1"}) is NO_SLO


@pytest.mark.parametrize(
    ("headers", "slo"),
    [
        ({TTFT: "200"}, Slo(200.0, inf)),
        ({TPOT: " 12.5 "}, Slo(inf, 12.5)),
        ({"x-slo-ttft-ms": "1e3", "x-slo-tpot-ms": "7"}, Slo(1000.0, 7.0)),
        ({TTFT: "200", "x-slo-ttft-ms": "100"}, Slo(200.0, inf)),
        ({TTFT: "", "x-slo-ttft-ms": "100"}, Slo(100.0, inf)),
    ],
)
def test_both_names_are_read_and_the_llm_d_one_wins(headers: dict[str, str], slo: Slo) -> None:
    assert read(headers) == slo


@pytest.mark.parametrize(
    "text", ["nan", "-5", "0", "inf", "-inf", "1e999", "soon", "12ms", "1_000", "١٢", "0x10", "\udcff"]
)
def test_what_is_no_latency_is_no_slo(text: str) -> None:
    assert read({TTFT: text, TPOT: "20"}) == Slo(inf, 20.0)


def test_what_is_ignored_counts() -> None:
    recorder = Recorder(monotonic, process=False)
    handle = Handle("it", Fleet(), monotonic, random.Random(0), logging.getLogger("test"), recorder.plugin_metrics)
    reader = SloReader(handle)

    for text in ("nan", "never", "100"):
        reader.read(make_request(headers={"x-slo-ttft-ms": text}))

    page = recorder.render()[0].decode()
    assert 'llm_epp_slo_headers_ignored_total{header="x-llm-d-slo-ttft-ms"} 2' in page


@pytest.mark.parametrize(
    ("given", "slo"),
    [
        ({}, Slo(500.0, 50.0)),
        ({TTFT: "200"}, Slo(200.0, 50.0)),
        ({TTFT: "soon", TPOT: "20"}, Slo(500.0, 20.0)),
    ],
)
def test_what_the_headers_do_not_ask_for_is_the_objectives(given: dict[str, str], slo: Slo) -> None:
    request = make_request(headers=given)
    request.objective_slo = Slo(500.0, 50.0)

    assert SloReader(make_handle()).read(request) == slo
