"""How often fetching from a data source has failed, and how often an extractor could not read what came."""

from __future__ import annotations

from collections import Counter


class SourceErrors:
    """Counts since the start, endpoints that are gone included."""

    def __init__(self) -> None:
        self.polls = 0
        self.unreadable: Counter[str] = Counter()  # by the extractor's type

    def poll_failed(self) -> None:
        self.polls += 1

    def extractor_failed(self, extractor_type: str) -> None:
        self.unreadable[extractor_type] += 1
