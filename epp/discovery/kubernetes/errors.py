"""What can go wrong between us and an API server, one class for each thing that a caller does differently. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

_DEFAULT_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 120.0  # a server that asks for longer is asked again, politely


class ApiError(Exception):
    """A request that had no success. `status` is the HTTP status, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Unavailable(ApiError):
    """No answer, half of one, or one that says that the server cannot: ask again later."""


class Silent(Unavailable):
    """A watch is open and brings nothing, not even the bookmarks that were asked for: perhaps nobody is there."""


class TooManyRequests(Unavailable):
    """The server asks to wait for `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float, status: int = 429) -> None:
        super().__init__(message, status, "TooManyRequests")
        self.retry_after_s = retry_after_s


class Gone(ApiError):
    """A resource version, or the rest of a list, is no longer known: list again."""


class NotFound(ApiError):
    """There is no such object, or no such kind."""


class Conflict(ApiError):
    """Somebody else has written in the meantime, or the object exists already: read it again."""


class Unauthorized(ApiError):
    """The server does not know who we are, even after the credentials were read again."""


class Forbidden(ApiError):
    """The server knows us and does not let us. `rule` would."""

    def __init__(self, message: str, rule: Rule) -> None:
        super().__init__(message, 403, "Forbidden")
        self.rule = rule


class Rule(msgspec.Struct, frozen=True):
    """A rule of a Role (or, without a namespace, of a ClusterRole) that a request needs."""

    group: str
    resource: str
    verb: str
    namespace: str = ""

    def __str__(self) -> str:
        where = f"a Role in namespace {self.namespace}" if self.namespace else "a ClusterRole"
        return f'{where}: apiGroups ["{self.group}"], resources ["{self.resource}"], verbs ["{self.verb}"]'


class Status(msgspec.Struct):
    """meta/v1 Status, as far as it matters."""

    code: int = 0
    reason: str = ""
    message: str = ""


def error_of(status: Status, rule: Rule, headers: Mapping[str, str]) -> ApiError:
    """The error that an answer other than 2xx means. `rule` is what the request would have needed."""
    code, reason = status.code, status.reason
    where = f" in namespace {rule.namespace}" if rule.namespace else ""
    text = f"{rule.verb} {rule.resource}{where}: {code} {status.message or reason}".rstrip()
    if code == 403:
        return Forbidden(f"not allowed to {rule.verb} {rule.resource}{where}; what is missing is {rule}", rule)
    if code == 429 or (code == 503 and "Retry-After" in headers):
        return TooManyRequests(text, _retry_after_s(headers), code)
    if code >= 500:
        return Unavailable(text, code, reason)
    kinds: dict[int, type[ApiError]] = {401: Unauthorized, 404: NotFound, 409: Conflict, 410: Gone}
    return kinds.get(code, ApiError)(text, code, reason)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Kubernetes writes whole seconds; a date, which HTTP allows, would need a clock that both sides agree on."""
    text = headers.get("Retry-After", "")
    if not (text.isascii() and text.isdigit()):
        return _DEFAULT_RETRY_S
    # 0 is no leave to ask without end.
    return min(max(float(text), _DEFAULT_RETRY_S), _MAX_RETRY_S)
