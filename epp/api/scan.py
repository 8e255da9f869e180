"""Finds the samples of a few metric families in raw Prometheus text (0.0.4 or OpenMetrics). No I/O, never raises on any bytes.

A metrics page is some 50 KB of which five lines matter, so nothing is split or decoded: one regular expression jumps from
line start to line start, and only lines of a wanted family are read. `# TYPE` lines are not needed: untyped samples count.

A sample that breaks the grammar makes its whole family unreadable, because the sum over the other samples would be wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Final, NamedTuple, TypeAlias

# Labels as they stand on the page (no braces), value, timestamp (milliseconds or seconds; 0 when there is none).
Sample: TypeAlias = tuple[bytes, float, float]

_NAME_CHARS: Final = rb"[a-zA-Z0-9_:]"
_NAME_CHAR: Final = re.compile(_NAME_CHARS)
_QUOTED: Final = rb'"(?:[^"\\\n]++|\\[^\n])*+"'
_NUMBER: Final = rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?"

# What follows the name on a sample line: labels, value, timestamp, exemplar (OpenMetrics), line end.
_REST: Final = re.compile(
    rb'(?:[ \t]*+\{((?:[^"{}\n]++|' + _QUOTED + rb")*+)\}[ \t]*+|[ \t]++)"
    rb"(" + _NUMBER + rb"|[+-]?(?i:inf(?:inity)?|nan))"
    rb"(?:[ \t]++(" + _NUMBER + rb"))?"
    rb"(?:[ \t]++\#[ \t]*+\{[^\n]*+)?[ \t\r]*+(?=\n|\Z)"
)
_LABEL: Final = re.compile(rb"[ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+(" + _QUOTED + rb")[ \t]*+(?:,[ \t]*+|\Z)")
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b'"': b'"', b"\\": b"\\"}


class Line(NamedTuple):
    """A line of a wanted family: where it begins (its line break included), where the family's name ends, which one it is."""

    begin: int
    name_end: int
    family: str


class Scanner:
    """Scans pages for the samples of the given families (sample names, to be exact)."""

    def __init__(self, families: Iterable[str]) -> None:
        names = sorted({f.encode() for f in families})
        # What all names begin with is matched once, not once for each name.
        common = _common_beginning(names)
        endings = b"|".join(re.escape(name[len(common) :]) for name in names)
        choice = rb"[ \t]*+(" + re.escape(common) + b"(?:" + endings + b"))"
        choice += rb"(?!" + _NAME_CHARS + rb")"
        self._families = {n: n.decode() for n in names}
        self._at_start = re.compile(choice)
        self._after_newline = re.compile(rb"\n" + choice)

    def scan(self, page: bytes) -> dict[str, list[Sample] | None]:
        """The samples of each family that has any, in page order; None for a family with a sample that cannot be read.

        Values that are not finite are left out: they say that there is nothing to report.
        """
        found: dict[str, list[Sample] | None] = {}
        line = self.next_line(page, 0)
        while line is not None:
            samples = found.setdefault(line.family, [])
            if samples is not None:
                try:
                    sample = sample_at(page, line.name_end)
                except ValueError:
                    found[line.family] = None
                else:
                    if sample is not None:
                        samples.append(sample)
            line = self.next_line(page, line.name_end)
        return found

    def next_line(self, page: bytes, position: int) -> Line | None:
        """The first line of a wanted family that begins at `position` (0, or that of a line break) or behind it."""
        if not self._families:
            return None
        match = (self._at_start.match(page) if position == 0 else None) or self._after_newline.search(page, position)
        return None if match is None else Line(match.start(), match.end(), self._families[match[1]])


def _common_beginning(names: list[bytes]) -> bytes:
    """What all of `names`, which are sorted, begin with."""
    if not names:
        return b""
    first, last = names[0], names[-1]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return first[: sum(1 for _ in same)]


def sample_at(page: bytes, name_end: int) -> Sample | None:
    """The sample whose name ends at `name_end`; None when its value is not finite. Raises ValueError for no sample."""
    rest = _REST.match(page, name_end)
    if rest is None:
        raise ValueError("not a sample")
    labels, number, timestamp = rest.groups()
    value = float(number)
    return (labels or b"", value, float(timestamp) if timestamp else 0.0) if math.isfinite(value) else None


def continues_name(text: bytes) -> bool:
    """`text`, right behind a family's name, makes it another name."""
    return _NAME_CHAR.match(text) is not None


def parse_labels(text: bytes) -> dict[str, str] | None:
    """The labels between a sample's braces; None when they are not well formed. Bytes that are not UTF-8 are replaced."""
    labels: dict[str, str] = {}
    position, end = 0, len(text.rstrip(b" \t"))
    while position < end:
        match = _LABEL.match(text, position, end)
        if match is None:
            return None
        name, quoted = match[1].decode(), match[2][1:-1]
        if name in labels:
            return None
        labels[name] = _unescape(quoted).decode("utf-8", "replace")
        position = match.end()
    return labels


def _unescape(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    return _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[0]), value)


def distinct(
    samples: list[Sample], parse: Callable[[bytes], dict[str, str] | None] = parse_labels
) -> list[tuple[dict[str, str], float]] | None:
    """Each series once, with its labels: of repeated samples the one with the latest timestamp, else the first.

    None when the labels of any sample are not well formed. `parse` may be a `parse_labels` that remembers.
    """
    newest: dict[frozenset[tuple[str, str]], tuple[dict[str, str], float, float]] = {}
    for text, value, timestamp in samples:
        labels = parse(text)
        if labels is None:
            return None
        series = frozenset(labels.items())
        known = newest.get(series)
        if known is None or timestamp > known[2]:
            newest[series] = (labels, value, timestamp)
    return [(labels, value) for labels, value, _ in newest.values()]
