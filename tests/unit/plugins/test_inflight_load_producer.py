from __future__ import annotations

import numpy as np
import pytest

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_REQUESTS,
    IN_FLIGHT_TOKENS,
    PREFIX_MATCH,
    Endpoint,
    Fleet,
    InFlightLoad,
    PrefixMatch,
    Request,
    Response,
    Termination,
    data_key,
)
from epp_plugins.producers.inflight_load_producer import InflightLoadProducer
from tests.support.plugins import make_fleet, make_handle, make_plugin
from tests.support.scheduling import ended, make_request, picked


def start(producer: InflightLoadProducer, request: Request, row: int = 0, **others: int | None) -> Request:
    fleet = producer.handle.fleet
    producer.produce(request, fleet.candidates())
    producer.pre_request(request, picked(fleet, row, **others))
    return request


def in_flight(fleet: Fleet) -> list[tuple[float, float]]:
    candidates = fleet.candidates()
    requests, tokens = candidates.column(IN_FLIGHT_REQUESTS), candidates.column(IN_FLIGHT_TOKENS)
    return list(zip(requests.tolist(), tokens.tolist(), strict=True))


def test_a_pick_counts_at_once_and_until_the_end() -> None:
    fleet = make_fleet(2)
    producer = make_plugin(InflightLoadProducer, fleet)
    request = start(producer, make_request(b"x" * 401), row=1)

    assert in_flight(fleet) == [(0, 0), (1, 101)]
    producer.response_complete(request, ended())
    assert in_flight(fleet) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("termination", Termination)
def test_every_ending_releases_once(termination: Termination) -> None:
    fleet = make_fleet(1)
    producer = make_plugin(InflightLoadProducer, fleet)
    start(producer, make_request(b"x" * 40))
    request = start(producer, make_request(b"x" * 400))
    producer.response_complete(request, ended(0, termination))
    producer.response_complete(request, ended(0, termination))

    assert in_flight(fleet) == [(1, 10)]


def test_the_first_piece_of_the_response_releases_the_prompt_only() -> None:
    fleet = make_fleet(1)
    producer = make_plugin(InflightLoadProducer, fleet, addEstimatedOutputTokens=True)
    request = start(producer, make_request(b"x" * 400))

    assert in_flight(fleet) == [(1, 100 + 150)]
    for _ in range(2):
        producer.response_chunk(request, Response(), b"data: {}\n\n")
        assert in_flight(fleet) == [(1, 150)]
    producer.response_complete(request, ended())
    assert in_flight(fleet) == [(0, 0)]


def test_other_profiles_are_charged_until_the_first_piece() -> None:
    fleet = make_fleet(3)
    producer = make_plugin(InflightLoadProducer, fleet)
    request = start(producer, make_request(b"x" * 400), row=0, prefill=2, encode=None)

    assert in_flight(fleet) == [(1, 100), (0, 0), (1, 100)]
    producer.response_chunk(request, Response(), b"x")
    assert in_flight(fleet) == [(1, 0), (0, 0), (0, 0)]
    producer.response_complete(request, ended())
    assert in_flight(fleet) == [(0, 0), (0, 0), (0, 0)]


def test_cached_tokens_are_not_charged() -> None:
    fleet = make_fleet(2)
    producer = make_plugin(InflightLoadProducer, fleet)
    request = make_request(b"x" * 4 * 200)
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array([0.0, 3.0] + [0.0] * 14), 3, 64)
    start(producer, request, row=1)

    load: InFlightLoad = request.data[data_key(IN_FLIGHT_LOAD)]
    assert load.uncached_tokens[:2].tolist() == [200, 200 - 3 * 64]
    assert in_flight(fleet) == [(0, 0), (1, 8)]


def test_more_cached_than_the_prompt_holds_is_not_negative() -> None:
    fleet = make_fleet(1)
    producer = make_plugin(InflightLoadProducer, fleet)
    request = make_request(b"x" * 40)
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.full(16, 5.0), 5, 64)
    start(producer, request)

    assert in_flight(fleet) == [(1, 0)]


@pytest.mark.parametrize(
    ("parameters", "asked", "estimate"),
    [
        ({}, None, 150),
        ({"outputRatio": 0.5}, None, 50),
        ({}, 20, 20),
        ({"maxEstimatedOutputTokens": 30}, None, 30),
        ({"maxEstimatedOutputTokens": 30}, 20, 20),
    ],
)
def test_estimated_output_has_limits(parameters: dict[str, object], asked: int | None, estimate: int) -> None:
    fleet = make_fleet(1)
    producer = make_plugin(InflightLoadProducer, fleet, addEstimatedOutputTokens=True, **parameters)
    start(producer, make_request(b"x" * 400, max_output_tokens=asked))

    assert in_flight(fleet) == [(1, 100 + estimate)]


def test_a_request_of_an_endpoint_that_left_does_not_touch_its_rows_next_user() -> None:
    fleet = make_fleet(1)
    producer = make_plugin(InflightLoadProducer, fleet)
    old = start(producer, make_request(b"x" * 400))
    fleet.remove(fleet.candidates().endpoints[0])
    fleet.add(Endpoint("new", "10.0.0.9", 8000))
    start(producer, make_request(b"x" * 40))
    producer.response_complete(old, ended())

    assert in_flight(fleet) == [(1, 10)]


def test_columns_that_grow_meanwhile_are_written_where_they_are() -> None:
    fleet = make_fleet(16)
    producer = make_plugin(InflightLoadProducer, fleet)
    request = start(producer, make_request(b"x" * 400), row=3)
    fleet.add(Endpoint("new", "10.1.0.1", 8000))
    producer.response_complete(request, ended())

    assert set(in_flight(fleet)) == {(0, 0)}


def test_two_producers_count_a_request_once() -> None:
    fleet = make_fleet(1)
    one = make_plugin(InflightLoadProducer, fleet)
    other = make_plugin(InflightLoadProducer, handle=make_handle(fleet, name="other"))
    request = make_request(b"x" * 40)
    start(one, request)
    start(other, request)

    assert in_flight(fleet) == [(1, 10)]
    one.response_complete(request, ended())
    other.response_complete(request, ended())
    assert in_flight(fleet) == [(0, 0)]


def test_without_data_all_tokens_are_charged() -> None:
    fleet = make_fleet(1)
    producer = make_plugin(InflightLoadProducer, fleet)
    producer.pre_request(make_request(b"x" * 40), picked(fleet, 0))

    assert in_flight(fleet) == [(1, 10)]
