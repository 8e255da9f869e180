"""The latencies that a request asks for: in its headers, else by its objective. What is no latency is ignored, and counted."""

from __future__ import annotations

import math

from epp.api import Handle, Request, Slo, headers

_TTFT, _OLD_TTFT = headers.SLO_TTFT_MS
_TPOT, _OLD_TPOT = headers.SLO_TPOT_MS


class SloReader:
    """Reads SLOs of requests. Ignored headers count in `llm_epp_slo_headers_ignored_total`."""

    def __init__(self, handle: Handle) -> None:
        self._ignored = handle.metrics.counter(
            "llm_epp_slo_headers_ignored_total",
            "SLO headers whose value is no positive, finite number of milliseconds: the request has no such SLO.",
            ("header",),
        )

    def read(self, request: Request) -> Slo:
        """The SLO of `request`; `NO_SLO` where it has none."""
        given = request.headers
        if _TTFT in given or _OLD_TTFT in given or _TPOT in given or _OLD_TPOT in given:
            otherwise = request.objective_slo
            return Slo(
                self._milliseconds(request, headers.SLO_TTFT_MS, otherwise.ttft_ms),
                self._milliseconds(request, headers.SLO_TPOT_MS, otherwise.tpot_ms),
            )
        return request.objective_slo

    def _milliseconds(self, request: Request, names: tuple[str, ...], otherwise: float) -> float:
        text = headers.first_of(request.headers, names)
        if not text:
            return otherwise
        value = milliseconds(text)
        if value is None:
            self._ignored.labels(names[0]).inc()
            return otherwise
        return value


def milliseconds(text: str) -> float | None:
    """A positive, finite number; None for anything else."""
    try:
        # float() also takes 1_000 and digits of other scripts.
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
