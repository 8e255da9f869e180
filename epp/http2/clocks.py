"""When something is due on a connection. It reads no clock: every method gets the time, in seconds of the caller's clock.

The connection notes what happens as plain assignments to these attributes (one per read, none per frame); all comparing is
done in the methods, which run when the shell calls `expire`. A time that is not running is `inf`.
"""

from math import inf

from epp.http2.errors import ConnectionFailure, ErrorCode
from epp.http2.limits import Limits


class Clocks:
    """The time-outs of one connection; calls' deadlines are with the calls."""

    __slots__ = (
        "_alive_due",
        "_idle_since",
        "_limits",
        "_stalled_at_bytes",
        "_stalled_since",
        "block_since",
        "drain_due",
        "handshake_due",
        "last_received",
        "settings_due",
        "unfinished_since",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.last_received = now
        self.handshake_due = _due(now, limits.handshake_timeout_s)
        self.settings_due = _due(now, limits.settings_timeout_s)
        self.unfinished_since = inf
        """A frame has begun to arrive and not ended."""
        self.block_since = inf
        """A header block has begun to arrive and not ended."""
        self.drain_due = inf
        self._alive_due = inf
        self._idle_since = inf
        self._stalled_since = inf
        self._stalled_at_bytes = 0

    def next_due(self) -> float:
        """The earliest time that is known now."""
        limits = self._limits
        return min(
            self.handshake_due,
            self.settings_due,
            self.drain_due,
            self._alive_due if self._alive_due != inf else _due(self.last_received, limits.keepalive_interval_s),
            _due(min(self.unfinished_since, self.block_since), limits.header_block_timeout_s),
            _due(self._idle_since, limits.idle_timeout_s),
            _due(self._stalled_since, limits.write_stall_timeout_s),
        )

    def check_handshake(self, now: float) -> None:
        """Raises ConnectionFailure if the client let preface, SETTINGS or their acknowledgement wait too long."""
        if now >= self.handshake_due:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "no preface and SETTINGS in time")
        if now >= self.settings_due:
            raise ConnectionFailure(ErrorCode.SETTINGS_TIMEOUT, "SETTINGS not acknowledged in time")

    def check_unfinished(self, now: float) -> None:
        """Raises ConnectionFailure if a frame or header block was begun too long ago."""
        if now >= _due(min(self.unfinished_since, self.block_since), self._limits.header_block_timeout_s):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "frame or header block not finished in time")

    def ping_is_due(self, now: float) -> bool:
        """Whether a silent client shall be asked. Raises ConnectionFailure if it was asked and stayed silent."""
        limits = self._limits
        if self._alive_due != inf and self.last_received > self._alive_due - limits.keepalive_timeout_s:
            self._alive_due = inf
        if now >= self._alive_due:
            raise ConnectionFailure(ErrorCode.NO_ERROR, "client is silent")
        if self._alive_due != inf or now < _due(self.last_received, limits.keepalive_interval_s):
            return False
        self._alive_due = now + limits.keepalive_timeout_s
        return True

    def check_stalled(self, now: float, *, waiting: bool, taken_bytes: int) -> None:
        """`taken_bytes` is what the transport took so far. Raises ConnectionFailure if it stood still while output waited."""
        if not waiting:
            self._stalled_since = inf
        elif self._stalled_since == inf or self._stalled_at_bytes != taken_bytes:
            self._stalled_since, self._stalled_at_bytes = now, taken_bytes
        elif now >= _due(self._stalled_since, self._limits.write_stall_timeout_s):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "client takes nothing of what waits for it")

    def idle_too_long(self, now: float, *, idle: bool) -> bool:
        """Counted from the first call that finds the connection idle, so that streams need not note their end."""
        if not idle:
            self._idle_since = inf
        elif self._idle_since == inf:
            self._idle_since = now
        return now >= _due(self._idle_since, self._limits.idle_timeout_s)


def _due(since: float, timeout_s: float) -> float:
    return since + timeout_s if timeout_s else inf
