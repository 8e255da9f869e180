"""Any bytes as messages of KV events: they are read or refused in one way, and the index stays in agreement with itself.

An input is a row of messages of one publisher, each preceded by a byte (its number's distance from the last one; odd ones come
by replay) and its length in two bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from epp_plugins.kv_events.cache import PublishedCache, Tally
from epp_plugins.kv_events.feed import Counts, Feed, Trust
from epp_plugins.kv_events.index import BlockIndex
from epp_plugins.kv_events.keys import TokenKeys
from tests.support.kv_index import consistent


def messages_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 3:
        length = int.from_bytes(data[1:3], "big")
        yield data[0], data[3 : 3 + length]
        data = data[3 + length :]


def target() -> Callable[[bytes], None]:
    """The function that takes inputs."""
    return one_input


def one_input(data: bytes) -> None:
    index = BlockIndex({"gpu": 1.0, "cpu": 0.8}, capacity=200)
    source = index.add_source(0)
    cache = PublishedCache(index, source, TokenKeys(), Tally())
    feed = Feed(cache, can_replay=True, clock=lambda: 0.0, counts=Counts())
    feed.connected()
    number = 0
    for first, payload in messages_of(data):
        if first & 1 and feed.wanted is not None:
            feed.replayed(number, payload)
        else:
            feed.message(number, payload)
        if first & 0x40:
            feed.replay_ended()
        if first & 0x80:
            feed.replay_failed()
        number = max(0, number + (first >> 1) % 4)
        assert consistent(index, [source])
        assert len(index) <= 200
        assert feed.wanted is None or feed.trust is Trust.NONE
    index.remove_source(source)
    assert len(index) == 0
