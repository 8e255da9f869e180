from __future__ import annotations

import numpy as np
import pytest

from epp.api import (
    METRICS_UPDATED_S,
    PREFILL_BACKLOG,
    PREFIX_MATCH,
    WAITING_REQUESTS,
    Endpoint,
    Fleet,
    PrefillBacklog,
    PrefixMatch,
    Request,
    Response,
    Termination,
    data_key,
)
from epp_plugins.producers.prefill_backlog_producer import PrefillBacklogProducer
from tests.support.plugins import Clock, make_fleet, make_handle, make_plugin
from tests.support.scheduling import ended, make_request, picked

RATE = 1000.0
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'


class World:
    """A producer whose endpoints read 1,000 tokens a second, and a clock to move."""

    def __init__(self, count: int = 2, rate: float = RATE) -> None:
        self.clock = Clock()
        self.fleet = make_fleet(count)
        handle = make_handle(self.fleet, name=PrefillBacklogProducer.type, clock=self.clock)
        self.producer = make_plugin(PrefillBacklogProducer, handle=handle, initialPrefillThroughput=rate)
        for endpoint in self.fleet.candidates():
            self.producer.endpoint_added(endpoint)

    def send(self, tokens: int, row: int = 0, *, streaming: bool = True, **others: int | None) -> Request:
        request = make_request(b"x" * 4 * tokens)
        request.payload.streaming = streaming
        self.producer.produce(request, self.fleet.candidates())
        self.producer.pre_request(request, picked(self.fleet, row, **others))
        return request

    def first_token(self, request: Request) -> None:
        self.producer.response_chunk(request, streamed(), TOKEN)

    def end(self, request: Request, response: Response | None = None) -> None:
        self.producer.response_complete(request, response or ended())

    def see_first_tokens(self, row: int = 1) -> None:
        """Show so many first tokens that each one is expected to be seen."""
        for _ in range(64):
            request = self.send(0, row)
            self.first_token(request)
            self.end(request)

    def seen(self) -> PrefillBacklog:
        request = make_request(b"")
        self.producer.produce(request, self.fleet.candidates())
        backlog: PrefillBacklog = request.data[data_key(PREFILL_BACKLOG)]
        return backlog

    def tokens(self) -> list[float]:
        return self.seen().tokens[: len(self.fleet)].tolist()


def streamed(status: int = 200, served: str | None = None) -> Response:
    return Response(status=status, streaming=True, body_seen=True, served_endpoint=served)


def test_a_pick_counts_at_once_and_drains_with_time() -> None:
    world = World()
    world.send(500, row=1)

    assert world.tokens() == [0, 500]
    world.clock.now += 0.2
    assert world.tokens() == pytest.approx([0, 300])
    world.clock.now += 10
    assert world.tokens() == [0, 0]


def test_a_first_token_ends_what_came_before_it_too() -> None:
    world = World()
    world.send(500)
    second = world.send(300)
    world.send(200)
    world.first_token(second)

    assert world.tokens()[0] == 200


def test_no_first_token_yet_keeps_the_prompts_behind_but_for_a_step() -> None:
    world = World()
    world.see_first_tokens()
    world.send(3000)
    world.send(5000)
    world.clock.now += 100

    assert world.tokens()[0] == 8000 - 2 * 2048


def test_where_first_tokens_are_not_seen_nothing_holds_the_backlog_up() -> None:
    world = World()
    world.send(3000)
    world.send(5000)
    world.clock.now += 100

    assert world.tokens()[0] == 0


def test_headers_tell_whether_the_first_token_will_be_seen() -> None:
    world = World()
    world.see_first_tokens()
    first = world.send(3000)
    world.send(5000)
    world.producer.response_received(first, Response(status=200, streaming=True, body_seen=False))
    world.clock.now += 100
    assert world.tokens()[0] == 0

    blind = World()
    first = blind.send(3000)
    blind.send(5000)
    blind.producer.response_received(first, streamed())
    blind.clock.now += 100
    assert blind.tokens()[0] == 8000 - 2 * 2048


def test_headers_and_the_role_are_no_first_token() -> None:
    world = World()
    request = world.send(500)
    world.producer.response_received(request, streamed())
    world.producer.response_chunk(request, streamed(), ROLE)

    assert world.tokens()[0] == 500
    world.producer.response_chunk(request, streamed(), TOKEN)
    assert world.tokens()[0] == 0


def test_pieces_of_an_error_are_no_first_token() -> None:
    world = World()
    request = world.send(500)
    world.producer.response_chunk(request, streamed(503), b"data: too busy\n\n")

    assert world.tokens()[0] == 500


@pytest.mark.parametrize("termination", Termination)
@pytest.mark.parametrize("status", [0, 200, 503])
def test_every_ending_gives_back_once(termination: Termination, status: int) -> None:
    world = World()
    first, second = world.send(100), world.send(400)
    world.end(second, ended(status, termination))
    world.end(second, ended(status, termination))

    # A good ending says that all before it has been read; any other says nothing of the others.
    good = termination is Termination.COMPLETE and status != 503
    assert world.tokens()[0] == (0 if good else 100)
    world.end(first)
    assert world.tokens()[0] == 0
    assert world.producer.dump_state()["endpoints"]["s0"]["decoding_requests"] == 0  # type: ignore[index]


def test_an_aborted_request_takes_back_what_is_left_of_it() -> None:
    world = World()
    first = world.send(500)
    world.send(300)
    world.clock.now += 0.2
    world.end(first, ended(0, Termination.CLIENT_DISCONNECT))

    assert world.tokens()[0] == pytest.approx(300)


def test_a_retry_moves_the_tokens_to_the_endpoint_that_serves() -> None:
    world = World()
    request = world.send(500, row=0)
    world.producer.response_received(request, streamed(served="10.0.0.2:8000"))

    assert world.tokens() == [0, 500]
    world.end(request)
    assert world.tokens() == [0, 0]


@pytest.mark.parametrize("served", [None, "", "10.0.0.1:8000"])
def test_an_endpoint_that_serves_as_was_decided_moves_nothing(served: str | None) -> None:
    world = World()
    request = world.send(500, row=0)
    world.producer.response_received(request, streamed(served=served))

    assert world.tokens() == [500, 0]


def test_a_retry_outside_of_the_fleet_is_counted_nowhere() -> None:
    world = World()
    request = world.send(500, row=0)
    world.producer.response_received(request, streamed(served="10.9.9.9:8000"))

    assert world.tokens() == [0, 0]
    world.first_token(request)
    world.end(request)


def test_an_endpoint_that_goes_takes_its_backlog_along() -> None:
    world = World(1)
    old = world.send(500)
    [endpoint] = world.fleet.candidates()
    world.producer.endpoint_removed(endpoint)
    world.fleet.remove(endpoint)
    newcomer = Endpoint("new", "10.0.0.9", 8000)
    world.fleet.add(newcomer)
    world.producer.endpoint_added(newcomer)
    assert world.tokens() == [0]

    world.send(40)
    world.first_token(old)
    world.end(old)
    assert world.tokens() == [40]


def test_cached_tokens_are_no_work() -> None:
    world = World()
    request = make_request(b"x" * 4 * 200)
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array([0.0, 3.0] + [0.0] * 14), 3, 64)
    world.producer.produce(request, world.fleet.candidates())
    world.producer.pre_request(request, picked(world.fleet, 1))

    backlog: PrefillBacklog = request.data[data_key(PREFILL_BACKLOG)]
    assert backlog.uncached_tokens[:2].tolist() == [200, 8]
    assert backlog.tokens[:2].tolist() == [0, 0]
    assert world.tokens() == [0, 8]


def test_the_endpoint_that_prefills_has_the_work() -> None:
    world = World()
    request = world.send(500, row=0, prefill=1)
    world.producer.response_received(request, streamed(served="10.0.0.1:8000"))

    assert world.tokens() == [0, 500]


def test_the_rate_follows_first_tokens_endpoint_by_endpoint() -> None:
    world = World(3)
    for _ in range(200):
        requests = [world.send(4000, row) for row in (0, 1)]
        world.clock.now += 1
        world.first_token(requests[0])
        world.clock.now += 1
        world.first_token(requests[1])
        for request in requests:
            world.end(request)

    rates = world.seen().rate
    assert rates[0] == pytest.approx(4000, rel=0.05)
    assert rates[1] == pytest.approx(2000, rel=0.05)
    assert rates[2] == RATE


def test_an_endpoint_that_comes_is_taken_for_as_quick_as_is_usual() -> None:
    world = World(2)
    for _ in range(50):
        request = world.send(4000, 0)
        world.clock.now += 1
        world.first_token(request)
        world.end(request)
    newcomer = Endpoint("new", "10.0.0.9", 8000)
    world.fleet.add(newcomer)
    world.producer.endpoint_added(newcomer)
    world.end(world.send(0, newcomer.row))

    rates = world.seen().rate
    assert rates[newcomer.row] == rates[0] > 2 * RATE


def test_a_whole_answer_at_once_says_nothing_about_the_rate() -> None:
    world = World()
    request = world.send(4000, streaming=False)
    world.clock.now += 60
    world.producer.response_chunk(request, Response(status=200, body_seen=True), b'{"choices": []}')

    assert world.seen().rate[0] == pytest.approx(RATE, rel=0.01)


def test_without_bodies_an_early_end_shows_a_higher_rate() -> None:
    world = World()
    for _ in range(100):
        request = world.send(4000)
        world.clock.now += 1
        world.end(request)

    assert world.seen().rate[0] == pytest.approx(4000, rel=0.1)


def test_without_bodies_nobody_waiting_means_that_prompts_are_read() -> None:
    world = World(rate=10.0)
    for _ in range(4):
        world.send(1000)
    world.clock.now += 1
    world.fleet.columns[METRICS_UPDATED_S][0] = world.clock.now
    world.fleet.columns[WAITING_REQUESTS][0] = 1

    # One waits, and one may be in the middle of being read.
    assert world.tokens()[0] == 2000
    world.fleet.columns[METRICS_UPDATED_S][0] = world.clock.now = world.clock.now + 0.01
    world.fleet.columns[WAITING_REQUESTS][0] = np.nan
    assert world.tokens()[0] == pytest.approx(2000, rel=0.01)


def test_what_waits_there_of_others_counts_as_our_own_prompts_do() -> None:
    world = World()
    world.send(500)
    world.clock.now += 10
    columns = world.fleet.columns
    for _ in range(2):
        columns[METRICS_UPDATED_S][:2] = world.clock.now = world.clock.now + 0.1
        columns[WAITING_REQUESTS][:2] = 1, 3
        world.seen()
    backlog = world.seen()

    assert backlog.tokens[:2].tolist() == [0, 3 * 500]
    assert backlog.strangers is not None
    assert backlog.strangers[:2].tolist() == [0, 3]
    world.clock.now += 0.5
    assert world.tokens() == [0, 3 * 500 - 500]


def test_rates_survive_a_restart() -> None:
    world = World()
    for _ in range(50):
        request = world.send(4000, 0)
        world.clock.now += 1
        world.first_token(request)
        world.end(request)
    saved = memoryview(b"".join(world.producer.save_state()))
    after = World()
    after.producer.load_state(saved, version=1)
    for endpoint in after.fleet.candidates():
        after.producer.endpoint_added(endpoint)

    assert after.seen().rate[0] == pytest.approx(world.seen().rate[0])
    assert after.seen().rate[1] > 3 * RATE  # what is known of one is a beginning for the others


@pytest.mark.parametrize("state", [b"{}x", b'{"a": 1}', b'{"a": {"rate": -1.0, "samples": 1}}'])
def test_state_that_is_none_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError):  # msgspec's errors are ValueErrors, too
        World().producer.load_state(memoryview(state), version=1)


def test_other_parameters_go_on_with_the_same_backlog() -> None:
    world = World()
    old = world.send(500)
    handle = make_handle(world.fleet, name=PrefillBacklogProducer.type, clock=world.clock)
    successor = make_plugin(PrefillBacklogProducer, handle=handle, initialPrefillThroughput=5.0)
    successor.take_over(world.producer)
    for endpoint in world.fleet.candidates():
        successor.endpoint_added(endpoint)
    predecessor, world.producer = world.producer, successor

    assert world.tokens() == [500, 0]
    predecessor.response_complete(old, ended(0, Termination.ERROR))
    assert world.tokens() == [0, 0]


def test_state_is_shown_by_endpoint() -> None:
    world = World()
    world.send(500)

    assert world.producer.dump_state() == {
        "sees_first_tokens": False,
        "endpoints": {
            "s0": {
                "backlog_tokens": 500,
                "pending_tokens": 500,
                "pending_requests": 1,
                "decoding_requests": 0,
                "tokens_per_second": 1000,
                "samples": 0,
            }
        },
    }


def test_vectors_are_as_long_as_a_fleet_that_has_grown() -> None:
    world = World()
    for i in range(40):
        world.fleet.add(Endpoint(f"n{i}", f"10.1.0.{i + 1}", 8000))
    world.send(500, row=41)

    backlog = world.seen()
    assert len(backlog.tokens) == len(backlog.rate) == len(backlog.uncached_tokens) == world.fleet.capacity
    assert backlog.tokens[41] == 500


def test_what_was_published_does_not_change_any_more() -> None:
    world = World()
    world.send(500)
    before = world.seen()
    world.clock.now += 0.1
    world.send(500)

    assert before.tokens[0] == 500


def test_an_endpoint_without_a_fleet_row_is_not_charged() -> None:
    world = World(1)
    request = make_request(b"x" * 400)
    world.producer.produce(request, world.fleet.candidates())
    result = picked(world.fleet, 0)
    world.fleet.remove(result.target)
    world.producer.pre_request(request, result)
    world.end(request)

    assert not Fleet.candidates(world.fleet)
