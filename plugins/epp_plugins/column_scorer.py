"""Scores that follow from one column of the fleet: worked out again only when the column or the candidates have changed."""

from __future__ import annotations

from typing import Any, ClassVar

from epp.api import Candidates, Floats, Handle, Request, Scorer


class ColumnScorer(Scorer):
    """A column of metrics changes with each page that is read, far less often than requests come."""

    column: ClassVar[str]

    def __init__(self, params: Any, handle: Handle) -> None:
        super().__init__(params, handle)
        self._candidates: Candidates | None = None
        self._bytes = b""
        self._scores: Floats

    def rate(self, values: Floats) -> Floats:
        """Scores of the candidates that have these `values`, in a vector of their own."""
        raise NotImplementedError

    def score(self, request: Request, candidates: Candidates) -> Floats:
        column = candidates.fleet.columns[self.column].tobytes()
        if candidates is not self._candidates or column != self._bytes:
            scores = self.rate(candidates.column(self.column))
            scores.flags.writeable = False  # tells the profile that the same vector will say the same
            self._candidates, self._bytes, self._scores = candidates, column, scores
        return self._scores
