"""Finds the samples on one page after another of the same server, at the cost of what has changed between them. No I/O.

Most of a page is what it was 50 ms before. The page is remembered as pieces: bytes that hold no line of a wanted family, and
the line behind them. A piece that stands where it should is compared in one step; where it does not, the page is searched up
to the next such line. So every byte is either searched, or equal to one that was searched in the same surroundings: what is
found is what `Scanner.scan` finds, whatever the pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from epp.api.scan import Sample, Scanner, continues_name, sample_at

_NEWLINE: Final = b"\n"


class _Piece:
    """`before`: from the end of the previous piece up to the end of the family's name; `rest`: what follows on the line.

    `sample` is None where the value is not finite, and where there is none because the line cannot be read.
    """

    __slots__ = ("before", "family", "readable", "rest", "sample")

    def __init__(self, before: bytes, family: str) -> None:
        self.before = before
        self.family = family
        self.rest = b""
        self.sample: Sample | None = None
        self.readable = False

    def take(self, page: bytes, name_end: int, rest: bytes) -> None:
        self.rest = rest
        try:
            self.sample, self.readable = sample_at(page, name_end), True
        except ValueError:
            self.sample, self.readable = None, False


class Follower:
    """Scans the pages of one server. The lists it hands out are shared between results: nobody may change them."""

    def __init__(self, families: Iterable[str]) -> None:
        self._scanner = Scanner(families)
        self._pieces: list[_Piece] = []
        self._tail = b""  # what follows the last piece
        self._found: dict[str, list[Sample] | None] = {}

    def scan(self, page: bytes) -> dict[str, list[Sample] | None]:
        """As `Scanner.scan`. The same object as before when no sample has changed; else those families that have not
        changed keep their lists.
        """
        position, stand, changed = 0, 0, set[str]()
        for piece in self._pieces:
            name_end = self._find(piece, page, position)
            if name_end < 0:
                break
            end = page.find(_NEWLINE, name_end)
            rest = page[name_end:] if end < 0 else page[name_end:end]
            if rest != piece.rest:
                if continues_name(rest):
                    break
                piece.take(page, name_end, rest)
                changed.add(piece.family)
            position = name_end + len(rest)
            stand += 1
        if stand < len(self._pieces) or not self._ends_alike(page, position):
            changed.update(self._search(page, position, stand))
        if changed:
            self._collect(changed)
        return self._found

    def _find(self, piece: _Piece, page: bytes, position: int) -> int:
        """Where the piece's family name ends, if the next line of a wanted family is one of it; else -1."""
        if page.startswith(piece.before, position):
            return position + len(piece.before)
        line = self._scanner.next_line(page, position)
        if line is None or line.family != piece.family:
            return -1
        piece.before = page[position : line.name_end]
        return line.name_end

    def _ends_alike(self, page: bytes, position: int) -> bool:
        """Nothing follows that is wanted."""
        if len(page) - position == len(self._tail) and page.endswith(self._tail):
            return True
        if self._scanner.next_line(page, position) is not None:
            return False
        self._tail = page[position:]
        return True

    def _search(self, page: bytes, position: int, kept: int) -> set[str]:
        """Keep the first `kept` pieces, which end at `position`, and find the others anew. The families that this concerns."""
        concerned = {piece.family for piece in self._pieces[kept:]}
        del self._pieces[kept:]
        while (line := self._scanner.next_line(page, position)) is not None:
            piece = _Piece(page[position : line.name_end], line.family)
            end = page.find(_NEWLINE, line.name_end)
            piece.take(page, line.name_end, page[line.name_end :] if end < 0 else page[line.name_end : end])
            self._pieces.append(piece)
            concerned.add(line.family)
            position = line.name_end + len(piece.rest)
        self._tail = page[position:]
        return concerned

    def _collect(self, changed: set[str]) -> None:
        """The samples of the families in `changed` anew, the others as they are."""
        found = {family: samples for family, samples in self._found.items() if family not in changed}
        for piece in self._pieces:
            if piece.family not in changed:
                continue
            samples = found.setdefault(piece.family, [])
            if not piece.readable:
                found[piece.family] = None
            elif samples is not None and piece.sample is not None:
                samples.append(piece.sample)
        self._found = found
