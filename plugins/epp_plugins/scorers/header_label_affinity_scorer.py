"""header-label-affinity-scorer: prefer endpoints whose label has the value of a request header."""

from __future__ import annotations

import msgspec
import numpy as np

from epp.api import Candidates, ConfigError, Floats, Handle, Request, Scorer


class HeaderLabelAffinityScorer(Scorer):
    """1 where label `labelKey` equals header `headerName`, else 0; 0 for all without the header.

    Same rule as the Go EPP's header-label-affinity-scorer.
    """

    type = "header-label-affinity-scorer"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        header_name: str
        label_key: str

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if not params.header_name:
            raise ConfigError("headerName: must name a header")
        if not params.label_key:
            raise ConfigError("labelKey: must name a label")
        self._header = params.header_name.lower()
        self._label = params.label_key

    def score(self, request: Request, candidates: Candidates) -> Floats:
        wanted = request.headers.get(self._header)
        if not wanted:
            return np.zeros(len(candidates))
        return np.array([e.labels.get(self._label) == wanted for e in candidates], dtype=np.float64)
