"""One publisher's cache as its events describe it: applies decoded events to the index."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from epp_plugins.kv_events.events import Batch, Cleared, Event, Malformed, Removed, Stored
from epp_plugins.kv_events.index import BlockIndex, Source
from epp_plugins.kv_events.keys import BlockKeys

# Of attention whose blocks serve every later token. Blocks of other kinds (sliding windows, state) come and go on their own.
PREFIX_KINDS: Final = frozenset({"", "full_attention", "mla_attention", "sink_full_attention"})
_MOST_ADAPTERS: Final = 10_000


class Told(enum.Enum):
    """What the events of one batch did to what is known of the cache."""

    THIS = "this"  # they changed it
    ALL = "all"  # all of it is known now: it was emptied
    LOST = "lost"  # it is not known any more


class Tally:
    """What all publishers have told, counted. `adapters` are the names of those that blocks were stored for."""

    __slots__ = ("adapters", "cleared", "left_out", "malformed", "removed", "stored")

    def __init__(self) -> None:
        self.stored = 0  # blocks
        self.removed = 0  # blocks
        self.cleared = 0  # events
        self.left_out = 0  # events of other kinds of layers, or whose parent is not known
        self.malformed = 0  # events and whole batches
        self.adapters: set[str] = set()


class PublishedCache:
    """Applies what one publisher tells. `block_size` is the tokens of its blocks, 0 until it has told of one."""

    __slots__ = ("_index", "_keys", "_tally", "block_size", "source")

    def __init__(self, index: BlockIndex, source: Source, keys: BlockKeys, tally: Tally) -> None:
        self._index = index
        self._keys = keys
        self._tally = tally
        self.source = source
        self.block_size = 0

    def clear(self) -> None:
        self._index.clear(self.source)

    def apply(self, batch: Batch) -> Told:
        """Take the events in order."""
        return self._apply(batch.events)

    def _apply(self, events: Iterable[Event]) -> Told:
        told = Told.THIS
        for event in events:
            match event:
                case Stored():
                    self._stored(event)
                case Removed():
                    self._tally.removed += len(event.hashes)
                    self._index.remove(self.source, event.medium, event.hashes, group=event.group)
                case Cleared():
                    self._tally.cleared += 1
                    self.clear()
                    told = Told.ALL
                case Malformed():
                    self._tally.malformed += 1
                    if event.loses_blocks:
                        # What it said is gone may be anything.
                        self.clear()
                        told = Told.LOST
        return told

    def _stored(self, event: Stored) -> None:
        if event.kind not in PREFIX_KINDS:
            self._tally.left_out += 1
            return
        if event.adapter and len(self._tally.adapters) < _MOST_ADAPTERS:
            self._tally.adapters.add(event.adapter)
        source = self.source
        if not event.token_ids:
            self._index.store_again(source, event.medium, event.hashes, group=event.group)
            return
        parent = None if event.parent is None else source.key_of(event.parent)
        keys = self._keys.of_event(event, parent)
        if keys is None:
            self._tally.left_out += 1
            return
        self.block_size = event.block_size
        self._tally.stored += len(event.hashes)
        self._index.store(source, event.medium, event.hashes, keys, group=event.group)
