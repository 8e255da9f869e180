"""The pool as it is known now: endpoints with their rows, objectives and rewrites. No I/O.

Sources of endpoints say what should be; the datastore works out what changes, keeps every endpoint that stays (its object,
row and counters), and tells listeners. All calls come from the event loop's thread.
"""

from __future__ import annotations

import enum
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from epp.api import Candidates, Endpoint, Fleet, Slo
from epp.data.endpoint_spec import EndpointSpec, Key
from epp.data.objectives import Objectives
from epp.data.rewrites import Rewrites
from epp.data.subset import SubsetIndex

_log: Final = logging.getLogger(__name__)


class Listener(Protocol):
    """Is told of endpoints that come and go: the collector, and plugins that are `EndpointListener`."""

    def endpoint_added(self, endpoint: Endpoint) -> None:
        """`endpoint` has its row."""
        ...

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """`endpoint` has its row still; afterwards the row may be another's."""
        ...

    def endpoint_relabelled(self, endpoint: Endpoint) -> None:
        """`endpoint` is the same one and has other labels."""
        ...


class News(enum.Enum):
    """What a listener is told of an endpoint."""

    ADDED = "came"
    REMOVED = "went"
    RELABELLED = "has other labels"


class Changes(msgspec.Struct, frozen=True):
    """What a call changed: numbers of endpoints."""

    added: int = 0
    removed: int = 0
    relabelled: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.relabelled)


class Datastore:
    """Owns the fleet. `synced` is set by the source of endpoints once its first full answer is in."""

    def __init__(self, fleet: Fleet | None = None, *, rng: random.Random | None = None) -> None:
        self.fleet = fleet if fleet is not None else Fleet()
        self.objectives = Objectives()
        self.rewrites = Rewrites(rng=rng or random.Random())
        self.synced = False
        self._endpoints: dict[Key, Endpoint] = {}
        self._specs: dict[Key, EndpointSpec] = {}
        self._listeners: list[Listener] = []
        self._index: SubsetIndex | None = None

    def __len__(self) -> int:
        return len(self._endpoints)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, in the order in which they came."""
        return tuple(self._endpoints.values())

    def get(self, key: Key) -> Endpoint | None:
        return self._endpoints.get(key)

    def by_host_port(self, host_port: str) -> Endpoint | None:
        """The endpoint at `ip:port` (as the proxy reports who served a request); None when it is not, or no longer, known."""
        return self._subset_index().at(host_port)

    def candidates_for(self, subset_hint: Sequence[object] | None = None) -> Candidates:
        """The endpoints that may serve a request: see `epp.data.subset`. No hint: all. Those that do not answer are left out,
        unless none answers."""
        if subset_hint is None:
            return self.fleet.reachable()
        return self.fleet.reachable(self._subset_index().candidates_for(subset_hint))

    def priority_of(self, objective: str) -> int:
        """The objective's priority, 0 when it is not known."""
        return self.objectives.priority_of(objective)

    def slo_of(self, objective: str) -> Slo:
        """The latencies that the objective asks for."""
        return self.objectives.slo_of(objective)

    def rewrite(self, model: str, headers: Mapping[str, str] | None = None) -> tuple[str, str] | None:
        """Name of the rewrite and target model, for a request that asks for `model` and carries `headers`."""
        return self.rewrites.rewrite(model, headers)

    # --- changes ---------------------------------------------------------------------------------------------------------

    def upsert(self, spec: EndpointSpec) -> Changes:
        """Add the endpoint or bring it up to date. Raises ConfigError, changing nothing, when it cannot be."""
        return self._apply({spec.key: spec}, gone=())

    def remove(self, key: Key) -> Changes:
        """Take the endpoint out; nothing happens when it is not there."""
        return self._apply({}, gone=(key,) if key in self._specs else ())

    def change(self, wanted: Iterable[EndpointSpec], *, gone: Sequence[Key]) -> Changes:
        """Take `gone` out, then bring `wanted` up to date: what is in both is another endpoint. Raises ConfigError."""
        removed = self._apply({}, gone=[key for key in gone if key in self._specs]).removed
        changes = self._apply({spec.key: spec for spec in wanted}, gone=())
        return msgspec.structs.replace(changes, removed=changes.removed + removed)

    def replace_all(self, specs: Iterable[EndpointSpec]) -> Changes:
        """Make the endpoints those of `specs` (of equal keys the last). Raises ConfigError, changing nothing."""
        wanted = {spec.key: spec for spec in specs}
        return self._apply(wanted, gone=[key for key in self._specs if key not in wanted])

    def clear(self) -> None:
        """Forget everything: the pool is gone."""
        self.replace_all(())
        self.objectives.replace_all({})
        self.rewrites.replace_all(())
        self.synced = False

    def _apply(self, wanted: dict[Key, EndpointSpec], *, gone: Sequence[Key]) -> Changes:
        fresh = {key: spec.build() for key, spec in wanted.items() if not _stays(self._specs.get(key), spec)}
        removed = [*gone, *(key for key in fresh if key in self._endpoints)]
        for key in removed:
            self._drop(key)
        relabelled = 0
        for key, spec in wanted.items():
            if key not in fresh and spec.labels != self._specs[key].labels:
                self._endpoints[key].labels = dict(spec.labels)
                relabelled += 1
                self._tell(self._endpoints[key], News.RELABELLED)
        self._specs.update(wanted)
        for key, endpoint in fresh.items():
            self.fleet.add(endpoint)
            self._endpoints[key] = endpoint
            self._tell(endpoint, News.ADDED)
        return Changes(len(fresh), len(removed), relabelled)

    def _drop(self, key: Key) -> None:
        endpoint = self._endpoints.pop(key)
        del self._specs[key]
        self._tell(endpoint, News.REMOVED)
        self.fleet.remove(endpoint)

    # --- listeners -------------------------------------------------------------------------------------------------------

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of the endpoints there are, and from now on of changes."""
        self._listeners.append(listener)
        for endpoint in self.endpoints:
            _call(listener, endpoint, News.ADDED)

    def remove_listener(self, listener: Listener) -> None:
        """Tell it no more. It is not told that the endpoints are gone, because they are not."""
        self._listeners = [known for known in self._listeners if known is not listener]

    def _tell(self, endpoint: Endpoint, news: News) -> None:
        for listener in self._listeners:
            _call(listener, endpoint, news)

    def _subset_index(self) -> SubsetIndex:
        candidates = self.fleet.candidates()
        if self._index is None or self._index.candidates is not candidates:
            self._index = SubsetIndex(candidates)
        return self._index


def _stays(known: EndpointSpec | None, wanted: EndpointSpec) -> bool:
    """The endpoint is the same one: at most its labels differ."""
    return known is not None and msgspec.structs.replace(known, labels=wanted.labels) == wanted


def _call(listener: Listener, endpoint: Endpoint, news: News) -> None:
    """A listener that raises costs itself the news and nobody else."""
    try:
        if news is News.ADDED:
            listener.endpoint_added(endpoint)
        elif news is News.REMOVED:
            listener.endpoint_removed(endpoint)
        else:
            listener.endpoint_relabelled(endpoint)
    except Exception:
        _log.exception("%s could not be told that endpoint %s %s", listener, endpoint.name, news.value)
