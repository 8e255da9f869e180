"""The fleet: every endpoint's numbers in columns, one row per endpoint.

A column is a float64 array; rows keep their number for the life of an endpoint and are reused afterwards. Candidates are
row numbers, so a scorer reads `candidates.column(WAITING_REQUESTS)` and returns a vector of the same length and order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from epp.api.endpoint import Endpoint

Floats: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]

# Read from the model server's metrics page.
WAITING_REQUESTS: Final = "waiting_requests"  # requests
RUNNING_REQUESTS: Final = "running_requests"  # requests
KV_CACHE_USAGE: Final = "kv_cache_usage"  # fraction 0..1
LORA_CAPACITY: Final = "lora_capacity"  # adapters that fit at once
CACHE_BLOCK_SIZE: Final = "cache_block_size"  # tokens per KV block, 0 unknown
CACHE_NUM_BLOCKS: Final = "cache_num_blocks"  # KV blocks, 0 unknown
# An attribute of endpoints, not a column: tokens of prompts that were found in the cache, counted since the engine's start.
CACHE_HIT_TOKENS: Final = "CacheHitTokens"
METRICS_UPDATED_S: Final = "metrics_updated_s"  # the fleet's clock, seconds; -inf before the first page
# Counted by the picker itself.
IN_FLIGHT_REQUESTS: Final = "in_flight_requests"  # requests
IN_FLIGHT_TOKENS: Final = "in_flight_tokens"  # tokens

DEFAULTS: Final[dict[str, float]] = {
    WAITING_REQUESTS: 0.0,
    RUNNING_REQUESTS: 0.0,
    KV_CACHE_USAGE: 0.0,
    LORA_CAPACITY: 0.0,
    CACHE_BLOCK_SIZE: 0.0,
    CACHE_NUM_BLOCKS: 0.0,
    METRICS_UPDATED_S: -np.inf,
    IN_FLIGHT_REQUESTS: 0.0,
    IN_FLIGHT_TOKENS: 0.0,
}


class Fleet:
    """All endpoints and their columns. Written by the data store, the collector and in-flight accounting only."""

    __slots__ = ("_everyone", "_free", "_reachable", "_silent", "columns", "defaults", "endpoints")

    def __init__(self, *, capacity: int = 16) -> None:
        self.defaults = dict(DEFAULTS)
        self.columns: dict[str, Floats] = {n: np.full(capacity, v) for n, v in self.defaults.items()}
        self.endpoints: list[Endpoint | None] = [None] * capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._everyone: Candidates | None = None
        self._silent: set[int] = set()
        self._reachable: Candidates | None = None

    def __len__(self) -> int:
        return len(self.endpoints) - len(self._free)

    @property
    def capacity(self) -> int:
        """Rows allocated; the length of every column and of every vector indexed by row."""
        return len(self.endpoints)

    def add_column(self, name: str, *, default: float = 0.0) -> None:
        """Add a column for a number that no built-in one holds. Adding it again changes nothing."""
        if name not in self.columns:
            self.defaults[name] = default
            self.columns[name] = np.full(self.capacity, default)

    def add(self, endpoint: Endpoint) -> None:
        """Give `endpoint` a row whose columns hold their defaults."""
        if not self._free:
            self._grow()
        row = self._free.pop()
        for name, default in self.defaults.items():
            self.columns[name][row] = default
        endpoint.row = row
        endpoint.alive = True
        self.endpoints[row] = endpoint
        self._everyone = self._reachable = None

    def remove(self, endpoint: Endpoint) -> None:
        """Take `endpoint` out. Its row may be reused at once: check `alive` before writing to it later."""
        if not endpoint.alive:
            return
        endpoint.alive = False
        self.endpoints[endpoint.row] = None
        self._free.append(endpoint.row)
        self._silent.discard(endpoint.row)
        self._everyone = self._reachable = None

    def candidates(self) -> Candidates:
        """Every endpoint, in row order. The same object until the fleet changes."""
        if self._everyone is None:
            rows = np.array([e.row for e in self.endpoints if e is not None], dtype=np.intp)
            self._everyone = Candidates(self, rows)
        return self._everyone

    def set_silent(self, endpoint: Endpoint, is_silent: bool) -> None:
        """`endpoint` does not answer at all, or does again."""
        if endpoint.alive and is_silent != (endpoint.row in self._silent):
            self._silent ^= {endpoint.row}
            self._reachable = None

    def is_silent(self, endpoint: Endpoint) -> bool:
        """Whether nothing answers at the address of `endpoint`."""
        return endpoint.alive and endpoint.row in self._silent

    def reachable(self, candidates: Candidates | None = None) -> Candidates:
        """`candidates` (None: all) without those that do not answer at all; the same where that would leave none."""
        if candidates is None:
            if self._reachable is None:
                self._reachable = self._without_silent(self.candidates())
            return self._reachable
        return self._without_silent(candidates)

    def _without_silent(self, candidates: Candidates) -> Candidates:
        if not self._silent:
            return candidates
        answering = candidates.keep(~np.isin(candidates.rows, list(self._silent)))
        return answering if len(answering) else candidates

    def _grow(self) -> None:
        old = self.capacity
        for name, column in self.columns.items():
            self.columns[name] = np.concatenate([column, np.full(old, self.defaults[name])])
        self.endpoints.extend([None] * old)
        self._free = list(range(2 * old - 1, old - 1, -1))


class Candidates:
    """Endpoints that may serve a request: an ordered choice of the fleet's rows. Never changed after it is made."""

    __slots__ = ("_endpoints", "fleet", "rows")

    def __init__(self, fleet: Fleet, rows: Rows) -> None:
        self.fleet = fleet
        self.rows = rows
        self._endpoints: tuple[Endpoint, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self.endpoints)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoint objects, same order as `rows`."""
        if self._endpoints is None:
            everyone = self.fleet.endpoints
            self._endpoints = tuple(e for r in self.rows if (e := everyone[r]) is not None)
        return self._endpoints

    def column(self, name: str) -> Floats:
        """A copy of one column's values for these candidates, same order."""
        return self.fleet.columns[name][self.rows]

    def keep(self, mask: Mask | Sequence[bool]) -> Candidates:
        """Those where `mask` (one truth value per candidate, same order) is true; `self` when all are."""
        chosen = np.asarray(mask, dtype=np.bool_)
        if len(chosen) != len(self.rows):
            raise ValueError(f"mask has {len(chosen)} values for {len(self.rows)} candidates")
        return self if chosen.all() else Candidates(self.fleet, self.rows[chosen])
