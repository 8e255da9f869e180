"""Token usage in a JSON document of a model server: which fields hold it, whatever their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from epp.api import Usage
from epp_plugins.parsers.prompts import ABSENT

_OBJECTS_WITH_PROMPT_TOKENS: Final = ("chat.completion", "chat.completion.chunk", "text_completion")
# The last spelling is what some servers send by mistake.
_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")


class _Document(msgspec.Struct, gc=False):
    object: Any = None
    usage: Any = None
    response: msgspec.Raw = ABSENT
    message: msgspec.Raw = ABSENT


_TokenCount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None


class _CommonDetails(msgspec.Struct, gc=False):
    cached_tokens: _TokenCount = None


class _CommonUsage(msgspec.Struct, gc=False):
    prompt_tokens: _TokenCount = None
    completion_tokens: _TokenCount = None
    total_tokens: _TokenCount = None
    prompt_tokens_details: _CommonDetails | None = None
    input_tokens_details: _CommonDetails | None = None
    prompt_token_details: _CommonDetails | None = None
    cache_read_input_tokens: _TokenCount = None

    def usage(self) -> Usage | None:
        cached = self.cache_read_input_tokens
        for details in (self.prompt_token_details, self.input_tokens_details, self.prompt_tokens_details):
            if details is not None and details.cached_tokens is not None:
                cached = details.cached_tokens
        return _usage(self.prompt_tokens, self.completion_tokens, self.total_tokens, cached)


class _CommonDocument(msgspec.Struct, gc=False):
    object: Literal["chat.completion", "chat.completion.chunk", "text_completion"]
    usage: _CommonUsage | None = None


class _SglangDocument(msgspec.Struct, gc=False):
    meta_info: Any = None


# What most answers are, read without a dictionary; whatever does not fit goes the long way.
_common: Final = msgspec.json.Decoder(_CommonDocument)
_document: Final = msgspec.json.Decoder(_Document)
_sglang_document: Final = msgspec.json.Decoder(_SglangDocument)
_any: Final = msgspec.json.Decoder()


def document_usage(data: bytes) -> Usage | None:
    """The usage of a whole answer, or of one event of a stream: its own, or that of the response or message in it.

    None for documents that hold none or cannot be read.
    """
    try:
        usage = _common.decode(data).usage
        return None if usage is None else usage.usage()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        document = _document.decode(data)
        if not isinstance(document.usage, dict):
            inner = document.response or document.message
            if not inner:
                return None
            document = _document.decode(inner)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return usage_of(document.usage, document.object)


def usage_value(data: bytes) -> Usage | None:
    """The usage that the JSON object `data` itself is."""
    try:
        return usage_of(_any.decode(data), None)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def sglang_usage(data: bytes) -> Usage | None:
    """The usage in `meta_info`, once the answer has a finish reason."""
    try:
        info = _sglang_document.decode(data).meta_info
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(info, dict) or info.get("finish_reason") is None:
        return None
    return _usage(_count(info, "prompt_tokens"), _count(info, "completion_tokens"), None, _count(info, "cached_tokens"))


def usage_of(usage: object, kind: object) -> Usage | None:
    """The counts of a `usage` object in a document whose `object` is `kind`. Anything that is no count is ignored."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = None, None
    if kind not in _OBJECTS_WITH_PROMPT_TOKENS:
        prompt, completion = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    if not (isinstance(kind, str) and kind.startswith(("response", "conversation"))):
        prompt = _count(usage, "prompt_tokens") if prompt is None else prompt
        completion = _count(usage, "completion_tokens") if completion is None else completion
    return _usage(prompt, completion, _count(usage, "total_tokens"), _cached(usage))


def merge(old: Usage | None, new: Usage | None) -> Usage | None:
    """Field by field the newer count where there is one."""
    if old is None or new is None:
        return new if old is None else old
    return Usage(
        prompt_tokens=old.prompt_tokens if new.prompt_tokens is None else new.prompt_tokens,
        completion_tokens=old.completion_tokens if new.completion_tokens is None else new.completion_tokens,
        total_tokens=old.total_tokens if new.total_tokens is None else new.total_tokens,
        cached_tokens=old.cached_tokens if new.cached_tokens is None else new.cached_tokens,
    )


def _usage(prompt: int | None, completion: int | None, total: int | None, cached: int | None) -> Usage | None:
    if prompt is None and completion is None and total is None and cached is None:
        return None
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total, cached_tokens=cached)


def _cached(usage: Mapping[str, object]) -> int | None:
    for name in _DETAILS:
        details = usage.get(name)
        if isinstance(details, dict):
            cached = _count(details, "cached_tokens")
            if cached is not None:
                return cached
    return _count(usage, "cache_read_input_tokens")


def _count(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    return None
