"""The tightest SLO for time per output token among the requests that run on each endpoint.

A request that is sent there slows their tokens down as well as its own. Requests without such an SLO do not count.
"""

from __future__ import annotations

import math

import numpy as np

from epp.api import Endpoint, Floats


class RunningSlos:
    """`tightest_ms`: by row of the fleet; infinite where no request with an SLO runs."""

    def __init__(self) -> None:
        self.tightest_ms: Floats = np.full(16, math.inf)
        self.count = 0
        self._by_endpoint: dict[Endpoint, list[float]] = {}

    def fit(self, capacity: int) -> None:
        """Have a value for each of the fleet's rows."""
        missing = capacity - len(self.tightest_ms)
        if missing > 0:
            self.tightest_ms = np.append(self.tightest_ms, np.full(missing, math.inf))

    def add(self, endpoint: Endpoint, slo_ms: float) -> None:
        if slo_ms < math.inf and endpoint.alive:
            self._by_endpoint.setdefault(endpoint, []).append(slo_ms)
            self._changed(endpoint, 1)

    def remove(self, endpoint: Endpoint, slo_ms: float) -> None:
        """The request has ended. One of an endpoint that is gone has gone with it."""
        running = self._by_endpoint.get(endpoint)
        if slo_ms < math.inf and running is not None:
            running.remove(slo_ms)
            self._changed(endpoint, -1)
            if not running:
                del self._by_endpoint[endpoint]

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint goes."""
        self.count -= len(self._by_endpoint.pop(endpoint, ()))
        self.tightest_ms[endpoint.row] = math.inf

    def _changed(self, endpoint: Endpoint, by: int) -> None:
        self.count += by
        self.tightest_ms[endpoint.row] = min(self._by_endpoint[endpoint], default=math.inf)
