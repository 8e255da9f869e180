"""The collector against real sockets: servers that work, fail, hang, vanish and come back."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import gzip
import ipaddress
import itertools
import math
import random
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_NUM_BLOCKS,
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    LORA_CAPACITY,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    ConfigError,
    Endpoint,
)
from epp.data.collector import Collector, ScrapeStatus
from epp.data.datastore import Datastore
from epp.data.endpoint_spec import EndpointSpec
from epp.data.engines import BUILTIN, CustomMetric, EngineConfig, load_engines
from epp.data.metrics_source import MetricsSource
from tests.support.http_fakes import Behaviour, FakeServer, drip, eventually, hang, head, page, raw, serving

PAGES = Path(__file__).parents[1] / "fixtures" / "metrics"
LOADED = (PAGES / "vllm-0.32-loaded.txt").read_bytes()
INTERVAL_S = 0.01
VLLM_SPECS = tuple(msgspec.structs.astuple(BUILTIN[0])[1:6])


def waiting(count: float) -> bytes:
    return f'vllm:num_requests_waiting{{engine="0"}} {count}\n'.encode()


def chunked(body: bytes, *, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


class Bench:
    """A datastore and a collector that follows it."""

    def __init__(self, **options: object) -> None:
        self.store = Datastore()
        settings = {"interval_s": INTERVAL_S, "timeout_s": 30.0, "clock": time.monotonic, "rng": random.Random(1)}
        engines = options.pop("engines", load_engines())
        self.collector = Collector(self.store.fleet, engines, **{**settings, **options})  # type: ignore[arg-type]
        self.store.add_listener(self.collector)

    def add(self, server: FakeServer, name: str = "a", **labels: str) -> Endpoint:
        self.store.upsert(EndpointSpec(name, "127.0.0.1", server.port, labels=labels))
        endpoint = self.store.get(("default", name))
        assert endpoint is not None
        return endpoint

    def value(self, endpoint: Endpoint, column: str) -> float:
        return float(self.store.fleet.columns[column][endpoint.row])

    def status(self, endpoint: Endpoint) -> ScrapeStatus:
        status = self.collector.status(endpoint)
        assert status is not None
        return status


@contextlib.asynccontextmanager
async def collecting(**options: object) -> AsyncIterator[Bench]:
    bench = Bench(**options)
    try:
        yield bench
    finally:
        await bench.collector.close()


async def test_a_page_fills_the_columns() -> None:
    async with serving(page(LOADED)) as server, collecting() as bench:
        endpoint = bench.add(server)
        assert bench.collector.age_s(endpoint) == math.inf

        await eventually(lambda: bench.status(endpoint).scrapes)

        columns = (
            WAITING_REQUESTS,
            RUNNING_REQUESTS,
            KV_CACHE_USAGE,
            CACHE_BLOCK_SIZE,
            CACHE_NUM_BLOCKS,
            LORA_CAPACITY,
        )
        assert [bench.value(endpoint, c) for c in columns] == [1, 1, 0.05882352941176472, 32, 256, 2]
        assert endpoint.lora_active == {"lora-a"}
        assert bench.collector.age_s(endpoint) < 5
        assert bench.status(endpoint).page_bytes == len(LOADED)


async def test_all_fetches_share_one_connection() -> None:
    async with serving(page(waiting(1))) as server, collecting() as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).scrapes >= 20)

        assert server.accepted == bench.status(endpoint).connections == 1


async def test_the_request_asks_for_the_configured_path_and_port() -> None:
    async with serving(page(waiting(1))) as server, serving(page(b"")) as other:
        async with collecting(source=MetricsSource(path="/m", port=server.port)) as bench:
            bench.add(other)

            await eventually(lambda: server.requests)

        assert server.requests[0].startswith(b"GET /m HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.port)
        assert not other.requests


async def test_an_engines_label_decides_path_and_metrics_and_may_change() -> None:
    async with serving(page((PAGES / "trtllm-serve.txt").read_bytes())) as server, collecting() as bench:
        endpoint = bench.add(server, **{"llm-d.ai/engine-type": "trtllm-serve"})
        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 5)
        assert server.requests[0].startswith(b"GET /prometheus/metrics ")

        server.behaviour = page((PAGES / "sglang.txt").read_bytes())
        bench.add(server, **{"llm-d.ai/engine-type": "sglang"})

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)
        await eventually(lambda: server.requests[-1].startswith(b"GET /metrics "))


async def test_a_label_that_says_where_the_page_is_may_change() -> None:
    source = MetricsSource(port_label="metricsPort")
    async with (
        serving(page(waiting(1))) as first,
        serving(page(waiting(2))) as second,
        collecting(source=source) as bench,
    ):
        endpoint = bench.add(first)
        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 1)

        bench.add(first, metricsPort=str(second.port))

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)
        assert bench.store.get(("default", "a")) is endpoint


async def test_without_a_label_the_page_tells_the_engine_even_after_a_change() -> None:
    async with serving(page((PAGES / "llamacpp-loaded.txt").read_bytes())) as server, collecting() as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 6)
        assert bench.status(endpoint).engine == "llama.cpp"

        server.behaviour = page(LOADED)

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 1)
        assert bench.status(endpoint).engine == "vllm"


@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_chunked_pages_are_read(size: int) -> None:
    body = LOADED if size > 1 else waiting(1)
    answer = head(transfer_encoding="chunked") + chunked(body, size=size)

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer)
        return True

    async with serving(behave) as server, collecting() as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).scrapes >= 3)

        assert bench.value(endpoint, WAITING_REQUESTS) == 1
        assert server.accepted == 1


async def test_a_server_that_closes_after_each_page_is_still_read() -> None:
    async with serving(raw(head() + waiting(3))) as server, collecting() as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).scrapes >= 3)

        assert bench.value(endpoint, WAITING_REQUESTS) == 3
        assert bench.status(endpoint).failures == 0


async def test_an_idle_connection_that_the_server_closes_is_no_failure() -> None:
    async with serving(page(waiting(1))) as server, collecting() as bench:
        endpoint = bench.add(server)

        for number in range(1, 6):
            await eventually(lambda n=number: bench.status(endpoint).connections >= n)  # type: ignore[misc]
            scrapes = bench.status(endpoint).scrapes
            # What is asked first on a new connection may not just be asked again.
            await eventually(lambda n=scrapes: bench.status(endpoint).scrapes > n)  # type: ignore[misc]
            server.drop_connections()
        await eventually(lambda: bench.status(endpoint).connections >= 6)

        assert bench.status(endpoint).failures == 0


BAD: dict[str, tuple[Behaviour, str]] = {
    "hang": (hang(), "no answer within"),
    "garbage": (raw(b"\x15\x03\x01\x00 this is not HTTP\r\n\r\n"), "bad status line"),
    "status 500": (page(b"oops", status="500 Internal Server Error"), "HTTP status 500"),
    "close at once": (raw(b""), "closed the connection"),
    "close within the body": (raw(head(content_length=1000) + waiting(9)), "ended within"),
    "close within a chunk": (raw(head(transfer_encoding="chunked") + b"ff\r\n" + waiting(9)), "ended within"),
    "slow drip": (drip(head(content_length=25) + waiting(9), every_s=0.05), "no answer within"),
    "too large": (raw(head(content_length=10**9), stay=True), "larger than"),
    "endless": (raw(head() + b"#" * 200_000, stay=True), "larger than"),
    "another page": (page(b"<html></html>"), "no metrics of engine"),
    "empty page": (page(b""), "no metrics of engine"),
    "unreadable values": (page(b"vllm:num_requests_waiting nine\n"), "no metrics of engine"),
    "two answers": (raw((head(content_length=25) + waiting(9)) * 2, stay=True), "nobody asked for"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_failure_is_counted_changes_nothing_and_ends_when_the_server_recovers(name: str) -> None:
    behaviour, error = BAD[name]
    timeout_s = 0.2 if "no answer" in error else 30.0
    async with serving(page(waiting(1))) as server, collecting(timeout_s=timeout_s, max_page_bytes=100_000) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.status(endpoint).scrapes)

        server.behaviour = behaviour
        failures = bench.status(endpoint).failures
        await eventually(lambda: bench.status(endpoint).failures > failures)
        updated_s = bench.value(endpoint, METRICS_UPDATED_S)
        await eventually(lambda: bench.status(endpoint).failures >= failures + 3)

        assert error in bench.status(endpoint).last_error
        assert bench.value(endpoint, WAITING_REQUESTS) == 1
        assert bench.value(endpoint, METRICS_UPDATED_S) == updated_s

        server.behaviour = page(waiting(2))

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)
        assert bench.status(endpoint).last_error == ""
        await eventually(lambda: server.connections == 1)


async def test_a_server_that_vanishes_and_comes_back_on_its_port_is_read_again() -> None:
    async with serving(page(waiting(1))) as server, collecting() as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.status(endpoint).scrapes)

        await server.stop()
        await eventually(lambda: bench.status(endpoint).failures >= 3)
        assert "cannot connect" in bench.status(endpoint).last_error
        age_s = bench.collector.age_s(endpoint)
        assert age_s > 0

        server.behaviour = page(waiting(2))
        await server.start()

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)


async def test_an_endpoint_that_nobody_listens_at_keeps_its_defaults() -> None:
    async with serving(page(b"")) as server, collecting() as bench:
        await server.stop()
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).failures >= 3)

        assert bench.value(endpoint, METRICS_UPDATED_S) == -math.inf
        assert bench.collector.age_s(endpoint) == math.inf


async def test_failures_are_retried_ever_more_slowly() -> None:
    async with serving(raw(b"")) as server, collecting() as bench:
        start_s = time.monotonic()
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).failures >= 8)

        # 10 ms doubled seven times is more than a second; half of that at least, with all of the jitter.
        assert time.monotonic() - start_s > (1 + 2 + 4 + 8 + 16 + 32 + 64) * INTERVAL_S / 2


async def test_a_slow_endpoint_delays_no_other() -> None:
    async with serving(hang()) as slow, serving(page(waiting(1))) as fast, collecting() as bench:
        hanging = bench.add(slow, "slow")
        await eventually(lambda: slow.requests)
        endpoint = bench.add(fast, "fast")

        await eventually(lambda: bench.status(endpoint).scrapes >= 20)

        assert len(slow.requests) == 1
        assert bench.status(hanging).failures == 0


async def test_endpoints_that_come_together_are_not_read_in_step() -> None:
    """After a restart with a thousand endpoints, a thousand requests at once every interval would be a burst for everybody."""
    times: list[float] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        times.append(time.monotonic())
        return await page(waiting(1))(reader, writer)

    async with serving(behave) as server, collecting(interval_s=1.0) as bench:
        for i in range(20):
            bench.add(server, f"e{i}")

        await eventually(lambda: len(times) >= 20)

        assert times[19] - times[0] > 0.2


async def test_a_page_that_grows_is_read() -> None:
    async with serving(page(waiting(0))) as server, collecting() as bench:
        endpoint = bench.add(server)

        for megabytes in (0, 1, 4):
            server.behaviour = page(b"# comment\n" * (megabytes * 100_000) + waiting(megabytes + 1))
            await eventually(lambda n=megabytes: bench.value(endpoint, WAITING_REQUESTS) == n + 1)  # type: ignore[misc]

        assert bench.status(endpoint).failures == 0


async def test_nothing_is_written_to_a_row_after_its_endpoint_is_gone() -> None:
    async with serving(page(waiting(7))) as server, serving(hang()) as silent, collecting() as bench:
        first = bench.add(server)
        await eventually(lambda: bench.status(first).scrapes)

        bench.store.remove(("default", "a"))
        second = bench.add(silent, "b")
        await eventually(lambda: silent.requests)
        await eventually(lambda: server.connections == 0)

        assert second.row == first.row
        assert bench.value(second, WAITING_REQUESTS) == 0
        assert bench.value(second, METRICS_UPDATED_S) == -math.inf
        assert bench.collector.status(first) is None
        assert bench.collector.age_s(first) == math.inf


async def test_endpoints_that_come_and_go_quickly_leave_nothing_behind() -> None:
    behaviours = (page(waiting(1)), hang(), raw(b"junk"), drip(head(content_length=3), every_s=0.01))
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(b)) for b in behaviours]
        before = asyncio.all_tasks()
        bench = Bench(interval_s=0.002, timeout_s=0.02)
        rng = random.Random(7)
        scraped = False
        for step in itertools.count():
            if step >= 300 and scraped:
                break
            chosen = rng.sample(range(40), 20)
            bench.store.replace_all(
                EndpointSpec(f"e{i}", "127.0.0.1", servers[(i + step // 50) % len(servers)].port) for i in chosen
            )
            await asyncio.sleep(0.001 if step % 10 else 0.01)
            scraped = scraped or any(status.scrapes for status in bench.collector.statuses())

        bench.store.replace_all([])
        await bench.collector.close()

        await eventually(lambda: all(server.connections == 0 for server in servers))
        await eventually(lambda: asyncio.all_tasks() == before)
        assert not _sockets(servers)


def _sockets(servers: list[FakeServer]) -> list[object]:
    """Client transports to the servers that are not closed."""
    gc.collect()
    ports = {server.port for server in servers}
    transports = [t for t in gc.get_objects() if isinstance(t, asyncio.Transport) and not t.is_closing()]
    return [t for t in transports if (t.get_extra_info("peername") or ("", 0))[1] in ports]


async def test_close_ends_connections_that_are_being_made_and_used() -> None:
    async with serving(hang()) as server:
        before = asyncio.all_tasks()
        bench = Bench()
        bench.add(server)
        await eventually(lambda: server.requests)
        bench.add(server, "b")

        await bench.collector.close()

        await eventually(lambda: server.connections == 0)
        await eventually(lambda: asyncio.all_tasks() == before)
        bench.add(server, "c")
        assert bench.collector.statuses() == []


async def test_long_running_keeps_memory_flat() -> None:
    async with serving(page(LOADED)) as server, collecting(interval_s=0.001) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.status(endpoint).scrapes >= 50)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await eventually(lambda: bench.status(endpoint).scrapes >= 250)
            server.requests.clear()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert after - before < 10 * len(LOADED)


async def test_an_interval_longer_than_the_timeout_is_kept() -> None:
    async with serving(page(waiting(1))) as server, collecting(interval_s=0.3, timeout_s=0.05) as bench:
        start_s = time.monotonic()
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).scrapes >= 3)

        # Two intervals, of which a busy machine may take half of one away.
        assert time.monotonic() - start_s > 0.44


# --- what is too old -----------------------------------------------------------------------------------------------------


async def test_metrics_that_are_too_old_become_unknown_and_come_back_whole() -> None:
    """The Go EPP goes on using them: a server that hangs looks as idle as it was, and draws all requests."""
    config = (EngineConfig("vllm", *VLLM_SPECS, custom_metrics=(CustomMetric("power", "watts"),)),)
    answer = page(LOADED + b"watts 3\n")
    options = {"stale_after_s": 0.1, "timeout_s": 0.5, "engines": load_engines(config)}
    async with serving(answer) as server, collecting(**options) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: endpoint.attributes.get("power") == 3)

        server.behaviour = hang()
        await eventually(lambda: math.isnan(bench.value(endpoint, WAITING_REQUESTS)))

        assert math.isnan(bench.value(endpoint, RUNNING_REQUESTS))
        assert math.isnan(bench.value(endpoint, KV_CACHE_USAGE))
        assert bench.collector.age_s(endpoint) == math.inf
        assert (endpoint.lora_active, bench.value(endpoint, LORA_CAPACITY)) == (frozenset(), 0)
        assert "power" not in endpoint.attributes
        assert bench.value(endpoint, CACHE_NUM_BLOCKS) == 256

        server.behaviour = answer
        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 1)

        assert bench.value(endpoint, KV_CACHE_USAGE) == 0.05882352941176472
        assert endpoint.lora_active == {"lora-a"}
        assert endpoint.attributes["power"] == 3


async def test_metrics_are_kept_whatever_their_age_where_that_is_asked_for() -> None:
    async with serving(page(waiting(3))) as server, collecting(stale_after_s=None, timeout_s=0.05) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.status(endpoint).scrapes)
        server.behaviour = hang()

        await eventually(lambda: bench.status(endpoint).failures >= 3)

        assert bench.value(endpoint, WAITING_REQUESTS) == 3


async def test_an_endpoint_whose_page_was_never_read_is_unknown_once_reading_it_has_failed() -> None:
    """Not idle: a server without a metrics page must not draw all requests."""
    async with serving(page(b"", status="404 Not Found")) as server, collecting(stale_after_s=60.0) as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).failures)

        assert math.isnan(bench.value(endpoint, WAITING_REQUESTS))


async def test_an_endpoint_that_does_not_answer_at_all_is_left_out_until_it_does() -> None:
    """A server that is dead has nothing in flight, and would draw requests for that alone."""
    async with (
        serving(page(waiting(1))) as dying,
        serving(page(waiting(1))) as other,
        collecting(stale_after_s=0.1, timeout_s=0.5) as bench,
    ):
        victim, survivor = bench.add(dying), bench.add(other, "b")
        await eventually(lambda: bench.status(victim).scrapes and bench.status(survivor).scrapes)
        await eventually(lambda: list(bench.store.candidates_for()) == [victim, survivor])

        await dying.stop()
        await eventually(lambda: list(bench.store.candidates_for()) == [survivor])
        assert list(bench.store.candidates_for([victim.host_port])) == [victim]  # where nobody else may serve

        await dying.start()
        await eventually(lambda: list(bench.store.candidates_for()) == [victim, survivor])

        dying.behaviour = hang()
        await eventually(lambda: list(bench.store.candidates_for()) == [survivor])


async def test_an_endpoint_without_metrics_is_not_left_out() -> None:
    async with (
        serving(page(b"", status="404 Not Found")) as without_metrics,
        serving(page(waiting(1))) as other,
        collecting(stale_after_s=0.05) as bench,
    ):
        one, two = bench.add(without_metrics), bench.add(other, "b")
        await eventually(lambda: bench.status(one).failures >= 3 and bench.status(two).scrapes)

        assert math.isnan(bench.value(one, WAITING_REQUESTS))
        assert list(bench.store.candidates_for()) == [one, two]


async def test_silence_at_a_port_for_metrics_alone_says_nothing_about_requests() -> None:
    async with serving(page(waiting(1))) as server, serving(page(waiting(1))) as gone:
        await gone.stop()
        async with collecting(stale_after_s=0.05, source=MetricsSource(port=gone.port)) as bench:
            one = bench.add(server)
            await eventually(lambda: bench.status(one).failures >= 3)

            assert not bench.store.fleet.is_silent(one)


async def test_an_endpoint_is_not_unknown_for_being_read_seldom() -> None:
    # Only where three readings are missed is it too old; a busy machine may miss 50 ms, not 1.5 s.
    async with serving(page(waiting(1))) as server, collecting(stale_after_s=0.001, interval_s=0.5) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.status(endpoint).scrapes)

        for _ in range(3):
            assert bench.value(endpoint, WAITING_REQUESTS) == 1
            scrapes = bench.status(endpoint).scrapes
            await eventually(lambda n=scrapes: bench.status(endpoint).scrapes > n)  # type: ignore[misc]


async def test_a_number_that_a_page_no_longer_shows_is_kept_until_it_is_too_old() -> None:
    both = waiting(1) + b"vllm:kv_cache_usage_perc 0.5\n"
    async with serving(page(both)) as server, collecting(stale_after_s=1.5) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.value(endpoint, KV_CACHE_USAGE) == 0.5)

        server.behaviour = page(waiting(2) + b"vllm:kv_cache_usage_perc half\n")
        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)
        assert bench.value(endpoint, KV_CACHE_USAGE) == 0.5

        await eventually(lambda: math.isnan(bench.value(endpoint, KV_CACHE_USAGE)))
        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)

        assert math.isnan(bench.value(endpoint, KV_CACHE_USAGE))
        assert bench.status(endpoint).failures == 0


async def test_a_number_that_an_engine_does_not_have_is_0() -> None:
    async with serving(hang()) as server, collecting(stale_after_s=0.05, timeout_s=0.1) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: math.isnan(bench.value(endpoint, KV_CACHE_USAGE)))

        server.behaviour = page((PAGES / "llamacpp-loaded.txt").read_bytes())

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 6)
        assert bench.value(endpoint, KV_CACHE_USAGE) == 0


@pytest.mark.parametrize("sample", [b"NaN", b"-1", b"3 requests"])
async def test_a_number_that_cannot_be_used_is_unknown_and_not_0(sample: bytes) -> None:
    """Else a server that has never told its queue would have the shortest one."""
    body = b"vllm:num_requests_waiting %b\nvllm:num_requests_running 1\n" % sample
    async with serving(page(body)) as server, collecting() as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.value(endpoint, RUNNING_REQUESTS) == 1)
        assert math.isnan(bench.value(endpoint, WAITING_REQUESTS))
        server.behaviour = page(waiting(2))
        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)


# --- idle endpoints ------------------------------------------------------------------------------------------------------


async def test_an_idle_endpoint_is_read_seldom_until_something_is_sent_there() -> None:
    async with serving(page(waiting(0))) as server, collecting(idle_interval_s=600.0) as bench:
        endpoint = bench.add(server)
        pauses_s: list[float] = []
        for scrapes in range(2, 9):
            before_s = time.monotonic()
            await eventually(lambda n=scrapes: bench.status(endpoint).scrapes >= n)  # type: ignore[misc]
            pauses_s.append(time.monotonic() - before_s)
        assert max(pauses_s) > 16 * INTERVAL_S

        bench.store.fleet.columns[IN_FLIGHT_REQUESTS][endpoint.row] = 1
        scrapes = bench.status(endpoint).scrapes

        await eventually(lambda: bench.status(endpoint).scrapes >= scrapes + 20)


@pytest.mark.parametrize("body", [waiting(1), waiting(0) + b"vllm:num_requests_running 2\n"])
async def test_an_endpoint_whose_page_shows_requests_is_not_idle(body: bytes) -> None:
    async with serving(page(body)) as server, collecting(idle_interval_s=600.0) as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).scrapes >= 30)


async def test_an_idle_endpoint_is_read_as_often_as_the_setting_says() -> None:
    async with serving(page(waiting(0))) as server, collecting(idle_interval_s=0.05) as bench:
        start_s = time.monotonic()
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).scrapes >= 12)

        # All of the first, doubling, pauses and then ten of 50 ms would be more than half a second at any other bound.
        assert time.monotonic() - start_s > 0.25


async def test_an_idle_endpoint_that_becomes_busy_by_itself_is_seen_within_the_setting() -> None:
    async with serving(page(waiting(0))) as server, collecting(idle_interval_s=0.1) as bench:
        endpoint = bench.add(server)
        await eventually(lambda: bench.status(endpoint).scrapes >= 6)

        server.behaviour = page(waiting(4))

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 4)
        scrapes = bench.status(endpoint).scrapes
        await eventually(lambda: bench.status(endpoint).scrapes >= scrapes + 10)


# --- what is fetched, and how --------------------------------------------------------------------------------------------


async def test_a_compressed_page_is_read() -> None:
    body = gzip.compress(LOADED)
    answer = raw(head(content_encoding="gzip", content_length=len(body)) + body)
    async with serving(answer) as server, collecting() as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 1)


async def test_line_ends_of_windows_and_openmetrics_are_read() -> None:
    text = b"# TYPE vllm:num_requests_waiting gauge\r\n" + waiting(2.0).replace(b"\n", b" 1.7e9\r\n") + b"# EOF\r\n"
    async with serving(page(text)) as server, collecting() as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.value(endpoint, WAITING_REQUESTS) == 2)


async def test_data_parallel_ranks_on_ports_of_their_own_are_endpoints_of_their_own() -> None:
    async with serving(page(waiting(1))) as first, serving(page(waiting(5))) as second, collecting() as bench:
        ranks = [bench.add(first, "server-rank-0"), bench.add(second, "server-rank-1")]

        await eventually(lambda: all(bench.status(rank).scrapes for rank in ranks))

        assert [bench.value(rank, WAITING_REQUESTS) for rank in ranks] == [1, 5]


async def test_engines_of_all_kinds_serve_in_one_pool() -> None:
    expected = {
        "vllm-0.32-loaded.txt": 1,
        "vllm-data-parallel.txt": 1,
        "sglang.txt": 2,
        "trtllm-serve.txt": 5,
        "triton-tensorrt-llm.txt": 3,
        "triton.txt": 6,
        "llamacpp-loaded.txt": 6,
    }
    async with contextlib.AsyncExitStack() as stack:
        bench = await stack.enter_async_context(collecting())
        for name in expected:
            server = await stack.enter_async_context(serving(page((PAGES / name).read_bytes())))
            bench.add(server, name)

        await eventually(lambda: all(status.scrapes for status in bench.collector.statuses()))

        assert {e.name: bench.value(e, WAITING_REQUESTS) for e in bench.store.endpoints} == expected


async def test_a_bearer_token_is_sent_and_followed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    now = [0.0]
    source = MetricsSource(bearer_token_path=str(token))
    async with serving(page(waiting(1))) as server, collecting(source=source, clock=lambda: now[0]) as bench:
        bench.add(server)
        await eventually(lambda: any(b"\r\nAuthorization: Bearer first\r\n" in r for r in server.requests))

        token.write_text("second")
        now[0] += 60

        await eventually(lambda: any(b"\r\nAuthorization: Bearer second\r\n" in r for r in server.requests))
        token.unlink()
        now[0] += 60
        server.requests.clear()
        await eventually(lambda: len(server.requests) >= 3)
        assert b"Bearer second" in server.requests[-1]


def test_a_token_that_cannot_be_read_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("none", "empty"):
        with pytest.raises(ConfigError, match=r"bearerTokenPath: .* cannot be used"):
            Bench(source=MetricsSource(bearer_token_path=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"ca_cert_path": "/none"}, "caCertPath: /none cannot be used: No such file or directory"),
        (
            {"client_cert_path": "/none", "client_key_path": "/nor this"},
            "clientCertPath, clientKeyPath: /none, /nor this cannot be used: No such file or directory",
        ),
    ],
)
def test_certificates_that_cannot_be_read_are_named_at_the_start(source: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bench(source=MetricsSource(scheme="https", **source))  # type: ignore[arg-type]


async def test_https_pages_are_read_and_a_stranger_is_refused_when_asked_to(tmp_path: Path) -> None:
    server_tls = _self_signed(tmp_path)
    trusting = MetricsSource(scheme="https", insecure_skip_verify=False, ca_cert_path=str(tmp_path / "cert.pem"))
    for source in (MetricsSource(scheme="https"), trusting):
        async with serving(page(waiting(4)), tls=server_tls) as server, collecting(source=source) as bench:
            endpoint = bench.add(server)

            await eventually(lambda b=bench, e=endpoint: b.value(e, WAITING_REQUESTS) == 4)  # type: ignore[misc]

    strict = MetricsSource(scheme="https", insecure_skip_verify=False)
    async with serving(page(waiting(4)), tls=server_tls) as server, collecting(source=strict) as bench:
        endpoint = bench.add(server)

        await eventually(lambda: bench.status(endpoint).failures)

        assert "certificate verify failed" in bench.status(endpoint).last_error


def _self_signed(directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


SCENARIOS: tuple[Callable[[], object], ...] = (
    test_a_page_fills_the_columns,
    test_an_idle_connection_that_the_server_closes_is_no_failure,
    test_a_server_that_vanishes_and_comes_back_on_its_port_is_read_again,
    test_close_ends_connections_that_are_being_made_and_used,
    test_metrics_that_are_too_old_become_unknown_and_come_back_whole,
    test_an_idle_endpoint_is_read_seldom_until_something_is_sent_there,
)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_works_the_same_on_uvloop(scenario: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 100))  # type: ignore[arg-type]
