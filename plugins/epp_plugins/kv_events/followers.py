"""Finds and follows the publishers of every endpoint: at known ports, where the server says, or all on one socket."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from epp.api import Endpoint, Handle, Job, OutsideError, Subscription, host_port
from epp_plugins.kv_events.cache import PublishedCache, Tally
from epp_plugins.kv_events.events import MalformedBatch, decode
from epp_plugins.kv_events.feed import Counts, Trust
from epp_plugins.kv_events.index import BlockIndex
from epp_plugins.kv_events.keys import BlockKeys
from epp_plugins.kv_events.publisher import Address, Publisher

_SOURCES: Final = "/kv_event_sources"
_ASK_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LOST_PAUSE_S: Final = 1.0
_RANK: Final = re.compile(r"-rank-(\d+)$")


class Ports(msgspec.Struct, frozen=True):
    """Where publishers are: at `events` and `replay` (0: none) plus the rank; `events` 0: the server is asked."""

    events: int
    replay: int


class _Source(msgspec.Struct):
    endpoint: str = ""
    replay_endpoint: str | None = None


_sources: Final = msgspec.json.Decoder(dict[str, _Source])


class Followers:
    """The publishers of all endpoints. `changed` is called when what can be believed of any of them may have changed."""

    def __init__(
        self,
        handle: Handle,
        index: BlockIndex,
        keys: BlockKeys,
        *,
        max_lag_s: float,
        changed: Callable[[], None],
    ) -> None:
        self.counts = Counts()
        self.tally = Tally()
        self._handle = handle
        self._index = index
        self._keys = keys
        self._max_lag_s = max_lag_s
        self._changed = changed
        self._by_endpoint: dict[Endpoint, dict[int, Publisher]] = {}
        self._asking: dict[Endpoint, Job] = {}
        self._shared: Subscription | None = None

    def publishers(self) -> Iterator[Publisher]:
        for by_rank in self._by_endpoint.values():
            yield from by_rank.values()

    def of(self, endpoint: Endpoint) -> Sequence[Publisher]:
        return tuple(self._by_endpoint.get(endpoint, {}).values())

    def follow(self, endpoint: Endpoint, ports: Ports | None) -> None:
        """Follow what `endpoint` publishes; without `ports` it is what comes on the shared socket."""
        self._by_endpoint[endpoint] = {}
        if ports is None:
            return
        if not ports.events:
            work = self._ask_for_sources(endpoint)
            self._asking[endpoint] = self._handle.outside.spawn(work, name=f"KV event sources of {endpoint.name}")
            return
        rank = _rank_of(endpoint)
        replay = _tcp(endpoint, ports.replay + rank) if ports.replay else ""
        self._open(endpoint, rank, Address(_tcp(endpoint, ports.events + rank), replay))

    def forget(self, endpoint: Endpoint) -> None:
        asking = self._asking.pop(endpoint, None)
        if asking is not None:
            asking.cancel()
        for rank in tuple(self._by_endpoint.get(endpoint, ())):
            self._close(endpoint, rank)
        self._by_endpoint.pop(endpoint, None)
        self._changed()

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        for endpoint in tuple(self._by_endpoint):
            self.forget(endpoint)

    # --- publishers --------------------------------------------------------------------------------------------------

    def _open(self, endpoint: Endpoint, rank: int, address: Address) -> None:
        publisher = self._make(endpoint, rank, address)
        try:
            publisher.start(max_lag_s=self._max_lag_s)
        except OutsideError as error:
            self._handle.log.error("KV events of %s: %s", publisher.name, error)

    def _make(self, endpoint: Endpoint, rank: int, address: Address) -> Publisher:
        cache = PublishedCache(self._index, self._index.add_source(endpoint.row), self._keys, self.tally)
        publisher = Publisher(
            self._handle,
            cache,
            name=f"{endpoint.name} rank {rank}",
            address=address,
            counts=self.counts,
            changed=self._changed,
        )
        self._by_endpoint[endpoint][rank] = publisher
        return publisher

    def _close(self, endpoint: Endpoint, rank: int) -> None:
        publisher = self._by_endpoint[endpoint].pop(rank)
        publisher.close()
        self._index.remove_source(publisher.cache.source)

    # --- where the server says ---------------------------------------------------------------------------------------

    async def _ask_for_sources(self, endpoint: Endpoint) -> None:
        """Again and again: a server that was started anew may publish elsewhere."""
        pause_s, told = _FIRST_PAUSE_S, False
        url = f"http://{endpoint.host_port}{_SOURCES}"
        while endpoint in self._by_endpoint:
            try:
                reply = await self._handle.outside.http("GET", url, timeout_s=_ASK_S)
                wanted = _addresses(endpoint, reply.body) if reply.status == 200 else {}
                problem = "" if wanted else f"{url}: status {reply.status}, or no sources"
            except (OutsideError, TimeoutError) as error:
                wanted, problem = {}, str(error) or f"{url}: no answer within {_ASK_S:g} s"
            if problem and not told:
                self._handle.log.warning("KV events of %s: %s", endpoint.name, problem)
            told = bool(problem)
            if wanted:
                self._adjust(endpoint, wanted)
            steady = wanted and all(p.is_connected for p in self.of(endpoint))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S) if steady else min(pause_s * 2, _LOST_PAUSE_S)
            await self._pause(endpoint, pause_s)

    async def _pause(self, endpoint: Endpoint, pause_s: float) -> None:
        """For `pause_s`, or until a connection is gone."""
        until_s = self._handle.clock() + pause_s
        steady = all(p.is_connected for p in self.of(endpoint))
        while (left_s := until_s - self._handle.clock()) > 0:
            await self._handle.sleep(min(left_s, _LOST_PAUSE_S))
            if steady and not all(p.is_connected for p in self.of(endpoint)):
                return

    def _adjust(self, endpoint: Endpoint, wanted: dict[int, Address]) -> None:
        here = self._by_endpoint.get(endpoint)
        if here is None:
            return
        for rank in [r for r, p in here.items() if wanted.get(r) != p.address]:
            self._close(endpoint, rank)
        for rank, address in wanted.items():
            if rank not in here:
                self._open(endpoint, rank, address)
        self._changed()

    # --- all on one socket -------------------------------------------------------------------------------------------

    def listen(self, address: str, topic: bytes) -> None:
        """Bind `address` for publishers that connect. Their topics name the endpoint: `kv@10.0.0.1:8000@model`."""
        self._shared = self._handle.outside.subscribe(_Shared(self), address, bind=True, topic=topic)

    def shared(self, frames: list[bytes], *, more: bool) -> None:
        """A message of the shared socket."""
        endpoint = self._named(frames[0])
        if len(frames) != 3 or endpoint is None:
            self.counts.malformed += 1
            return
        try:
            rank = decode(frames[2]).rank or 0
        except MalformedBatch:
            rank = 0
        publisher = self._by_endpoint[endpoint].get(rank)
        if publisher is None:
            publisher = self._make(endpoint, rank, Address(frames[0].decode(errors="replace")))
            publisher.follow(max_lag_s=self._max_lag_s)
        publisher.received([frames], more=more)

    def caught_up(self) -> None:
        """Nothing waits on the shared socket."""
        for publisher in self.publishers():
            if publisher.lagging:
                publisher.received((), more=False)

    def doubt(self) -> None:
        """A connection of the shared socket is gone, and nothing says whose."""
        for publisher in self.publishers():
            publisher.feed.disconnected()
            publisher.feed.connected()
        self._changed()

    def _named(self, topic: bytes) -> Endpoint | None:
        """The endpoint whose address, pod name or name is in the topic."""
        parts = topic.decode(errors="replace").split("@")
        name = parts[1] if len(parts) > 1 else ""
        named = [e for e in self._by_endpoint if name in (e.host_port, e.name, e.pod_name)]
        if not named:
            named = [e for e in self._by_endpoint if e.address == name.strip("[]")]
        return named[0] if len(named) == 1 else None

    def trusted(self) -> int:
        """How many publishers are believed, all of it or a part."""
        return sum(p.trust is not Trust.NONE for p in self.publishers())


class _Shared:
    """Implements `epp.api.Subscriber` for the shared socket."""

    def __init__(self, followers: Followers) -> None:
        self._followers = followers

    def connected(self) -> None:
        """A publisher is known by its first message."""

    def disconnected(self) -> None:
        self._followers.doubt()

    def received(self, messages: Sequence[list[bytes]], *, more: bool) -> None:
        for frames in messages:
            self._followers.shared(frames, more=more)
        if not more:
            self._followers.caught_up()


def _tcp(endpoint: Endpoint, port: int) -> str:
    return f"tcp://{host_port(endpoint.address, port)}"


def _rank_of(endpoint: Endpoint) -> int:
    """Of pods with several ports, one for each rank, the endpoints are called `<pod>-rank-<n>`."""
    found = _RANK.search(endpoint.name)
    return int(found.group(1)) if found else 0


def _addresses(endpoint: Endpoint, body: bytes) -> dict[int, Address]:
    """By rank. The host is the endpoint's own, whatever name the server knows itself by."""
    try:
        sources = _sources.decode(body)
    except (msgspec.MsgspecError, ValueError):
        return {}
    found: dict[int, Address] = {}
    for rank, source in sources.items():
        events, replay = _port(source.endpoint), _port(source.replay_endpoint or "")
        if rank.isdigit() and events:
            found[int(rank)] = Address(_tcp(endpoint, events), _tcp(endpoint, replay) if replay else "")
    return found


def _port(address: str) -> int:
    try:
        return urlsplit(address.replace("*", "0.0.0.0")).port or 0
    except ValueError:
        return 0
