"""Who serves which session: bindings by session id, forgotten after a time of rest. No clock."""

from __future__ import annotations

from collections import OrderedDict

from epp.api import Endpoint


class SessionTable:
    """Bindings, the longest unused first. At most `limit`, each for `ttl_s` seconds after its last use."""

    __slots__ = ("_bindings", "_limit", "_ttl_s")

    def __init__(self, *, ttl_s: float, limit: int) -> None:
        self._ttl_s = ttl_s
        self._limit = limit
        self._bindings: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._bindings)

    def find(self, session: str, *, now_s: float) -> Endpoint | None:
        """The session's endpoint; None when it has none, its time is over, or the endpoint is gone."""
        endpoint, expires_s = self._bindings.get(session, (None, 0.0))
        if endpoint is None or not endpoint.alive or expires_s <= now_s:
            return None
        return endpoint

    def bind(self, session: str, endpoint: Endpoint, *, now_s: float) -> None:
        self._bindings[session] = (endpoint, now_s + self._ttl_s)
        self._bindings.move_to_end(session)
        self._forget(now_s)

    def touch(self, session: str, *, now_s: float) -> None:
        """The session is in use: its time begins anew."""
        if session in self._bindings:
            self.bind(session, self._bindings[session][0], now_s=now_s)

    def _forget(self, now_s: float) -> None:
        # Every binding lives equally long, so those whose time is over are the first.
        while self._bindings:
            session, (_, expires_s) = next(iter(self._bindings.items()))
            if expires_s > now_s and len(self._bindings) <= self._limit:
                return
            del self._bindings[session]
