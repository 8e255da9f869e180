"""Requests that endpoints have and that this picker did not send: of another picker, of its own life before a restart.

An endpoint's page tells how many requests run and wait there. What is more than this picker had on its way at any moment
since the page before the last cannot be its own: between page and decision requests come and go.
No I/O, no clock.
"""

from __future__ import annotations

import numpy as np

from epp.api import IN_FLIGHT_REQUESTS, METRICS_UPDATED_S, RUNNING_REQUESTS, WAITING_REQUESTS, Fleet, Floats


class Strangers:
    """By fleet row: `requests` in all, those `waiting` among them, and when the page that says so was read."""

    def __init__(self, capacity: int) -> None:
        self.any = False
        self.requests: Floats = np.zeros(capacity)
        self.waiting: Floats = np.zeros(capacity)
        self.seen_s: Floats = np.zeros(capacity)
        # Our own: in flight and waiting, the most of each since the newest page, and between that and the one before.
        self._most: Floats = np.zeros((2, capacity))
        self._most_before: Floats = np.zeros((2, capacity))

    def fit(self, capacity: int) -> None:
        """Make room for the rows of a fleet that has grown."""
        more = capacity - len(self.requests)
        if more > 0:
            self.requests, self.waiting, self.seen_s, self._most, self._most_before = (
                np.append(values, np.zeros((*values.shape[:-1], more)), axis=-1)
                for values in (self.requests, self.waiting, self.seen_s, self._most, self._most_before)
            )

    def forget(self, row: int) -> None:
        """Another endpoint has the row."""
        if row < len(self.requests):
            self.requests[row] = self.waiting[row] = 0.0

    def sent(self, fleet: Fleet, row: int, own_waiting: float) -> None:
        """One of ours goes to the endpoint in `row`; `own_waiting` counts it, and the fleet's column perhaps not yet."""
        self._most[0, row] = max(self._most.item(0, row), fleet.columns[IN_FLIGHT_REQUESTS].item(row) + 1.0)
        self._most[1, row] = max(self._most.item(1, row), own_waiting)

    def look(self, fleet: Fleet, own_waiting: Floats) -> None:
        """Before a decision. `own_waiting`: by row, our requests that are not known to have had their first token."""
        columns = fleet.columns
        np.maximum(self._most[0], columns[IN_FLIGHT_REQUESTS], out=self._most[0])
        np.maximum(self._most[1], own_waiting, out=self._most[1])
        fresh = columns[METRICS_UPDATED_S] > self.seen_s
        if not fresh.any():
            return
        rows = fresh.nonzero()[0]
        waiting = columns[WAITING_REQUESTS][rows]
        ours, ours_waiting = np.maximum(self._most, self._most_before)[:, rows]
        requests = np.maximum(waiting + columns[RUNNING_REQUESTS][rows] - ours, 0.0)
        requests[~(requests < np.inf)] = 0.0  # what is not known, or cannot be
        self.requests[rows] = requests
        self.waiting[rows] = np.fmin(np.fmax(waiting - ours_waiting, 0.0), requests)
        self.seen_s[rows] = columns[METRICS_UPDATED_S][rows]
        self._most_before[:, rows] = self._most[:, rows]
        self._most[0, rows] = columns[IN_FLIGHT_REQUESTS][rows]
        self._most[1, rows] = own_waiting[rows]
        self.any = bool(self.requests.any())
