"""What becomes of requests when a server's metrics are too old: a server that hangs after an idle page must not draw them."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np

from epp.api import WAITING_REQUESTS, Floats, Request, Scorer
from epp.api.fleet import Candidates
from epp.data.collector import Collector
from epp.data.endpoint_spec import EndpointSpec
from epp.data.engines import load_engines
from epp.director.director import Director
from epp.observability.plain import encode_json
from epp.server.session import ExtProc, Session
from tests.support.extproc import POST, request_body, request_headers, response_headers
from tests.support.http_fakes import eventually, hang, page, serving
from tests.support.service import make_director

IDLE = b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n"
BUSY = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.9\n"


def begin(director: Director) -> tuple[Session, list[bytes]]:
    """One request that is under way, and what Envoy was told."""
    session = ExtProc(director, max_body_bytes=1 << 20).session(lambda: None)
    session.receive(request_headers(POST).SerializeToString())
    session.receive(request_body(b'{"model": "m", "prompt": "hello"}', end=True).SerializeToString())
    return session, session.take()


def ask(director: Director) -> str:
    """The name of the endpoint that one request goes to; it is left under way."""
    session, _ = begin(director)
    request = session._exchange.request
    assert request is not None
    assert request.result is not None
    return request.result.target.name


@contextlib.asynccontextmanager
async def pool_with_a_server_that_hangs(
    director: Director, *, others: bytes, stale_after_s: float | None
) -> AsyncIterator[Collector]:
    """Servers `hung`, whose last page said that it is idle, and `other`."""
    store = director.datastore
    async with serving(page(IDLE)) as hung, serving(page(others)) as other:
        collector = Collector(
            store.fleet,
            load_engines(),
            clock=time.monotonic,
            interval_s=0.01,
            timeout_s=0.05,
            stale_after_s=stale_after_s,
        )
        store.add_listener(collector)
        store.replace_all(
            [EndpointSpec("hung", "127.0.0.1", hung.port), EndpointSpec("other", "127.0.0.1", other.port)]
        )
        await eventually(lambda: all(status.scrapes for status in collector.statuses()))
        hung.behaviour = hang()
        await eventually(lambda: collector.statuses()[0].failures >= 3)
        yield collector
        await collector.close()


async def only_the_other_is_known(collector: Collector) -> None:
    """Return at such a moment: on a busy machine the other's page, too, may be late once."""
    await eventually(lambda: [status.age_s == math.inf for status in collector.statuses()] == [True, False])


async def test_a_request_to_a_server_whose_load_is_unknown_ends_as_any_other() -> None:
    director = make_director(keep=10)
    store = director.datastore
    async with serving(page(b"", status="404 Not Found")) as server:
        # Who does not answer at all is left out, which is another matter.
        collector = Collector(
            store.fleet, load_engines(), clock=time.monotonic, interval_s=0.01, timeout_s=60.0, stale_after_s=60.0
        )
        store.add_listener(collector)
        store.replace_all([EndpointSpec("a", "127.0.0.1", server.port)])
        await eventually(lambda: collector.statuses()[0].failures)
        await collector.close()
    conversation, replies = begin(director)

    conversation.receive(response_headers(end=True).SerializeToString())

    assert len(replies) + len(conversation.take()) >= 2
    conversation.close("OK")
    (record,) = director.request_log.recent()
    assert record["status"] == 200
    assert "queue" not in record
    assert b"NaN" not in encode_json(director.request_log.recent())


async def test_requests_go_where_something_is_known_even_if_that_is_a_busy_server() -> None:
    director = make_director()
    async with pool_with_a_server_that_hangs(director, others=BUSY, stale_after_s=0.1) as collector:
        await only_the_other_is_known(collector)

        assert Counter(ask(director) for _ in range(20)) == {"other": 20}


async def test_old_numbers_are_used_where_that_is_asked_for() -> None:
    """As in the Go EPP: every request goes to the server that hangs."""
    director = make_director()
    async with pool_with_a_server_that_hangs(director, others=BUSY, stale_after_s=None):
        assert Counter(ask(director) for _ in range(20)) == {"hung": 20}


async def test_when_nothing_is_known_of_any_the_least_in_flight_decides() -> None:
    director = make_director()
    store = director.datastore
    async with serving(page(b"", status="503 Service Unavailable")) as server:
        # Who does not answer at all is left out, which is another matter.
        collector = Collector(
            store.fleet, load_engines(), clock=time.monotonic, interval_s=0.01, timeout_s=60.0, stale_after_s=60.0
        )
        store.add_listener(collector)
        store.replace_all(EndpointSpec(f"s{i}", "127.0.0.1", server.port) for i in range(4))
        await eventually(lambda: np.isnan(store.fleet.candidates().column(WAITING_REQUESTS)).all())

        asked = Counter(ask(director) for _ in range(40))

        assert set(asked.values()) == {10}
        await collector.close()


class Naive(Scorer):
    """A scorer of somebody who has never heard of unknown loads."""

    type = "naive"

    def score(self, request: Request, candidates: Candidates) -> Floats:
        return 1 / (1 + candidates.column(WAITING_REQUESTS))


async def test_a_scorer_need_not_care_for_what_is_unknown() -> None:
    config = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: naive}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: naive}]}]
"""
    director = make_director(config=config, plugins=(Naive,))
    async with pool_with_a_server_that_hangs(director, others=BUSY, stale_after_s=0.1) as collector:
        await only_the_other_is_known(collector)

        assert Counter(ask(director) for _ in range(20)) == {"other": 20}
