"""What the EPP's log says: where it serves, and one pick per request; and each pick brought together with its answer.

The log is read while it grows. No I/O but that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from epp.demo.client import Answer


class Pick(msgspec.Struct):
    """The EPP's line about one request: the endpoint, and what was known of it when it was chosen."""

    id: str
    endpoint: str = ""
    """``host:port``; empty when none was found."""
    queue: int | None = None
    """Requests waiting there."""
    in_flight: int | None = None
    """Requests sent there and not yet answered, this one included."""
    prefix_blocks: int | None = None
    """Blocks of the prompt that it was believed to hold, of prefix_total."""
    prefix_total: int | None = None
    candidates: int | None = None
    ttft_ms: float | None = None
    """As the EPP saw it: from the request to the first byte of the answer."""
    termination: str = ""


class Serving(msgspec.Struct):
    """The EPP's line that says it serves, with the ports it got."""

    ext_proc_port: int
    metrics_port: int


class _Line(msgspec.Struct):
    msg: str = ""


def parse_line(line: bytes) -> Pick | Serving | None:
    """One line of the EPP's JSON log; None for every other line, also for one that is no JSON."""
    try:
        message = msgspec.json.decode(line, type=_Line).msg
        if message == "request":
            return msgspec.json.decode(line, type=Pick)
        if message == "serving":
            return msgspec.json.decode(line, type=Serving)
    except msgspec.DecodeError:
        return None
    return None


class LogTail:
    """A log file that somebody else is writing. `read` returns the lines completed since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return complete.splitlines()


class Joiner:
    """Brings answers and picks together by request id, whichever comes first, and hands each pair to `on_pair` once."""

    def __init__(self, on_pair: Callable[[Answer, Pick], None]) -> None:
        self._on_pair = on_pair
        self._answers: dict[str, Answer] = {}
        self._picks: dict[str, Pick] = {}
        self.picks: dict[str, Pick] = {}
        """Every pick that found its answer, by request id."""

    def add_answer(self, answer: Answer) -> None:
        self._answers[answer.id] = answer
        self._join(answer.id)

    def add_pick(self, pick: Pick) -> None:
        self._picks[pick.id] = pick
        self._join(pick.id)

    @property
    def unpaired(self) -> list[Answer]:
        """Answers whose pick has not been logged."""
        return list(self._answers.values())

    def _join(self, request_id: str) -> None:
        if request_id not in self._answers or request_id not in self._picks:
            return
        pick = self.picks[request_id] = self._picks.pop(request_id)
        self._on_pair(self._answers.pop(request_id), pick)
