from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from epp.api import PREFIX_MATCH, WAITING_REQUESTS, Fleet, PrefixMatch, Request, data_key
from epp_plugins.producers.p2p_source_producer import P2pSourceProducer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request, picked

HEADER = "x-kv-cache-source-host-port"


def source(
    fleet: Fleet,
    blocks: list[float],
    reader: int,
    *,
    request: Request | None = None,
    prefill: int | None = None,
    **parameters: object,
) -> str | None:
    request = request or make_request()
    request.candidates = fleet.candidates()
    matched = np.zeros(fleet.capacity)
    matched[: len(blocks)] = blocks
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(matched, 10, 64)
    make_plugin(P2pSourceProducer, fleet, **parameters).pre_request(request, picked(fleet, reader, prefill=prefill))
    return request.set_headers.get(HEADER)


@pytest.mark.parametrize(
    ("blocks", "reader", "delta", "address"),
    [
        ([0, 9, 4], 0, 1, "10.0.0.2:8000"),
        ([9, 0, 0], 0, 1, None),
        ([0, 0, 0], 0, 1, None),
        # Two blocks of 64 tokens ahead.
        ([2, 4, 0], 0, 128, "10.0.0.2:8000"),
        ([2, 4, 0], 0, 129, None),
        # The best is the reader itself, and the other is behind it.
        ([5, 4, 0], 0, 1, None),
    ],
)
def test_the_source_holds_more_than_the_reader(
    blocks: list[float], reader: int, delta: int, address: str | None
) -> None:
    assert source(make_fleet(3), blocks, reader, minCachedTokenDelta=delta) == address


def test_the_prefill_endpoint_is_the_reader_where_there_is_one() -> None:
    assert source(make_fleet(2), [0, 8], 0, prefill=1) is None
    assert source(make_fleet(2), [8, 0], 0, prefill=1) == "10.0.0.1:8000"


def test_equal_sources_share_the_work_by_their_queues_and_a_request_keeps_its_source() -> None:
    fleet = make_fleet(3, **{WAITING_REQUESTS: [0, 3, 0]})
    chosen: Counter[str | None] = Counter()
    for i in range(2000):
        request = make_request()
        request.id = f"r{i}"
        found = source(fleet, [9, 8, 0], 2, request=request)
        assert found == source(fleet, [9, 8, 0], 2, request=request)
        chosen[found] += 1

    # Weights 1 and 1/4: of 2000 requests 1600 and 400, within 4 standard deviations (18).
    assert abs(chosen["10.0.0.1:8000"] - 1600) < 72
    assert chosen["10.0.0.1:8000"] + chosen["10.0.0.2:8000"] == 2000


def test_a_source_whose_queue_is_not_known_is_the_last_choice() -> None:
    fleet = make_fleet(3, **{WAITING_REQUESTS: [float("nan"), 50, 0]})

    assert source(fleet, [9, 9, 0], 2) == "10.0.0.2:8000"
    assert source(fleet, [9, 0, 0], 2) == "10.0.0.1:8000"


@pytest.mark.parametrize(("blocks", "value"), [([0.0, 0.0], ""), ([0.0, 5.0], "10.0.0.2:8000")])
def test_what_the_client_sent_is_overwritten(blocks: list[float], value: str) -> None:
    assert source(make_fleet(2), blocks, 0, request=make_request(headers={HEADER: "10.9.9.9:1"})) == value


def test_without_prefix_data_nothing_is_set() -> None:
    fleet, request = make_fleet(2), make_request()
    make_plugin(P2pSourceProducer, fleet).pre_request(request, picked(fleet, 0))

    assert request.set_headers == {}
