"""Counting what costs us work and brings the client nothing; too much of it in one window of time ends the connection."""

from epp.http2.errors import ConnectionFailure, ErrorCode
from epp.http2.limits import Limits


class FloodGuard:
    """Counters of one connection, set to zero when a window of `flood_window_s` has passed.

    Each method counts one event and raises ConnectionFailure(ENHANCE_YOUR_CALM) when its limit is crossed.
    """

    __slots__ = ("_control", "_empty", "_errors", "_limits", "_pings", "_premature", "_settings", "window_ends")

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.restart(now)

    def restart(self, now: float) -> None:
        """To be called at the first received piece after `window_ends`."""
        self.window_ends = now + self._limits.flood_window_s
        self._pings = self._settings = self._empty = self._control = self._premature = self._errors = 0

    def ping(self) -> None:
        self._pings += 1
        if self._pings > self._limits.max_pings_per_window:
            raise _calm("PING frames", self._limits.max_pings_per_window)

    def settings(self) -> None:
        self._settings += 1
        if self._settings > self._limits.max_settings_per_window:
            raise _calm("SETTINGS frames", self._limits.max_settings_per_window)

    def empty_data(self) -> None:
        self._empty += 1
        if self._empty > self._limits.max_empty_data_per_window:
            raise _calm("empty DATA frames", self._limits.max_empty_data_per_window)

    def control(self) -> None:
        self._control += 1
        if self._control > self._limits.max_control_frames_per_window:
            raise _calm("control frames", self._limits.max_control_frames_per_window)

    def premature_reset(self) -> None:
        self._premature += 1
        if self._premature > self._limits.max_premature_resets_per_window:
            raise _calm("streams reset before an answer", self._limits.max_premature_resets_per_window)

    def stream_error(self) -> None:
        self._errors += 1
        if self._errors > self._limits.max_stream_errors_per_window:
            raise _calm("broken or refused streams", self._limits.max_stream_errors_per_window)


def _calm(what: str, limit: int) -> ConnectionFailure:
    return ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, f"more than {limit} {what} in one window")
