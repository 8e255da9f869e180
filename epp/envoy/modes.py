"""Which bodies Envoy should send: from what reads them, and what was asked for. Pure.

Sending a request body costs Envoy's time and the EPP's once; sending a response body costs both for every piece of it. So
`auto` sends what has a reader, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from epp.envoy.options import BodyMode

_LOST = "no token counts, no time to first token, and answers name a rewritten model by its new name"


class RequestBodies(StrEnum):
    """What to do with request bodies."""

    AUTO = "auto"
    ALL = "all"
    """In pieces of any size, which is what the endpoint picker protocol asks for."""
    BUFFERED = "buffered"
    """Each as one message, up to the buffer limit. Unlike ALL it can fail open."""
    NONE = "none"


class ResponseBodies(StrEnum):
    """What to do with response bodies."""

    AUTO = "auto"
    ALL = "all"
    NONE = "none"
    SAMPLED = "sampled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Names of the plugins of a configuration that read bodies. All empty: nothing does."""

    request: tuple[str, ...] = ()
    """Parsers that look into request bodies; the same know the response to such a request."""

    response: tuple[str, ...] = ()
    """Parsers that find token counts or model names in response bodies. They do so only where they read the request."""

    pieces: tuple[str, ...] = ()
    """Other plugins that look at pieces of responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """The choice, with its reasons (one sentence for each direction), and what should give its user pause."""

    request: BodyMode
    response: BodyMode
    response_fraction: float | None
    why: tuple[str, str]
    warnings: tuple[str, ...]


def choose(
    readers: Readers,
    *,
    request: RequestBodies = RequestBodies.AUTO,
    response: ResponseBodies = ResponseBodies.AUTO,
    fraction: float | None = None,
    fail_open: bool = False,
) -> Modes:
    """The body modes for a configuration. `fraction` belongs to SAMPLED, and must be given with it."""
    request_mode, request_why = _request(readers, request, fail_open=fail_open)
    reading = _reading(readers, request_mode)
    sent = BodyMode.STREAMED if fail_open else BodyMode.FULL_DUPLEX_STREAMED
    response_mode, response_why = _response(reading, response, fraction, sent=sent)
    warnings = []
    if request_mode is BodyMode.NONE and readers.request:
        blind = "without bodies, decisions know neither model nor prompt"
        warnings.append(f"--request-bodies none: {', '.join(readers.request)} would read them; {blind}")
    if request_mode is BodyMode.FULL_DUPLEX_STREAMED and fail_open:
        fails = "Envoy fails a request once it has sent body in FULL_DUPLEX_STREAMED"
        warnings.append(f"--failure-mode open with --request-bodies all: {fails}; use buffered")
    if response_mode is not BodyMode.NONE and not (reading.response or reading.pieces):
        warnings.append(f"--response-bodies {response.value}: nothing in the configuration reads them; none is cheaper")
    return Modes(
        request=request_mode,
        response=response_mode,
        response_fraction=fraction if response is ResponseBodies.SAMPLED else None,
        why=(request_why, response_why),
        warnings=tuple(warnings),
    )


def _request(readers: Readers, asked: RequestBodies, *, fail_open: bool) -> tuple[BodyMode, str]:
    by = f"read by {', '.join(readers.request)}" if readers.request else "no parser reads them"
    if asked is RequestBodies.NONE or (asked is RequestBodies.AUTO and not readers.request):
        return BodyMode.NONE, f"{by}; decisions are made on the headers"
    if asked is RequestBodies.BUFFERED or (asked is RequestBodies.AUTO and fail_open):
        return (
            BodyMode.BUFFERED,
            f"{by}; as one message{', because streamed ones cannot fail open' if fail_open else ''}",
        )
    return BodyMode.FULL_DUPLEX_STREAMED, by


def _reading(readers: Readers, request: BodyMode) -> Readers:
    """Who would read response bodies: whoever parsed the request, which without request bodies is nobody, and others."""
    return Readers(response=() if request is BodyMode.NONE else readers.response, pieces=readers.pieces)


def _response(
    reading: Readers, asked: ResponseBodies, fraction: float | None, *, sent: BodyMode
) -> tuple[BodyMode, str]:
    """`sent`: the mode where bodies are sent. In STREAMED Envoy keeps each piece until it is answered, and can do without."""
    names = (*reading.response, *reading.pieces)
    by = f"read by {', '.join(names)}" if names else "nothing in the configuration reads them"
    if asked is ResponseBodies.SAMPLED:
        assert fraction is not None
        share = f"{fraction * 100:.4f}".rstrip("0").rstrip(".")
        return sent, f"for {share} % of requests; {by}{_without(reading, 'the others: ')}"
    if asked is ResponseBodies.ALL or (asked is ResponseBodies.AUTO and names):
        cheaper = "; --response-bodies none or sampled=0.1 costs less per answer" if names else ""
        return sent, f"{by}{cheaper}"
    return BodyMode.NONE, f"{by}; costs nothing per piece{_without(reading)}"


def _without(reading: Readers, whose: str = "") -> str:
    """What is missing where response bodies are not sent."""
    lost = [_LOST] if reading.response else []
    if reading.pieces:
        lost.append(f"nothing for {', '.join(reading.pieces)}")
    return f"; {whose}{'; '.join(lost)}" if lost else ""
