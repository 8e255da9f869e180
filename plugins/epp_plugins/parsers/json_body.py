"""Decodes JSON request bodies into structs of the fields that matter, and says in the Go EPP's words what is wrong.

What the Go EPP lets through is let through: lone surrogate escapes and bytes that are not UTF-8 read as U+FFFD. The body
that is sent on keeps its bytes either way; the model server judges them.
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from epp.api import Code, Payload, Prompt, RequestError
from epp_plugins.parsers.json_model import replace_model
from epp_plugins.parsers.long_texts import cut, is_long
from epp_plugins.parsers.prompts import lengthened

MODEL_NOT_FOUND: Final = "model not found in request body"
MOST_CHOICES: Final = 16_384
"""Of each prompt. vLLM refuses more (VLLM_MAX_N_SEQUENCES)."""

_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_MALFORMED: Final = "JSON is malformed: "

P = TypeVar("P", bound="PromptsBody")
B = TypeVar("B", bound="JsonBody")


class PromptsBody(msgspec.Struct, gc=False):
    def prompts(self) -> tuple[Prompt, ...]:
        """What the model will see; none at all: the required field is missing or empty."""
        raise NotImplementedError


class JsonBody(PromptsBody, gc=False):
    """Fields that several APIs share. Those of type Any may hold anything without making the body invalid."""

    model: str | None = None
    stream: Any = None
    cache_salt: str | None = None
    max_tokens: Any = None

    def output_limit(self) -> int | None:
        """The client's limit of output tokens."""
        return token_limit(self.max_tokens)

    def choices(self, prompts: int) -> int:
        """How many texts the server generates for so many prompts. Where it makes more of them to choose from (`best_of`), it
        streams none."""
        return 1


class JsonPayload(Payload):
    """A JSON object whose `model` can be replaced."""

    __slots__ = ()
    model_required = True

    def with_model(self, body: bytes, model: str) -> bytes:
        return replace_model(body, model)


class _AnyObject(msgspec.Struct):
    """Any JSON object: decoding checks the syntax only."""


_any_object: Final = msgspec.json.Decoder(_AnyObject)


def read_json(body: bytes, decoder: msgspec.json.Decoder[B], *, syntax: str, invalid: str) -> JsonPayload:
    """The payload of `body`. RequestError with `<syntax>: <detail>` when it is no JSON object, else with `invalid`."""
    parsed, prompts = read_prompts(body, decoder, syntax=syntax, invalid=invalid)
    return JsonPayload(
        model=parsed.model or None,
        prompts=prompts,
        streaming=parsed.stream is True,
        cache_salt=parsed.cache_salt or "",
        max_output_tokens=parsed.output_limit(),
        choices=parsed.choices(len(prompts)),
    )


def read_prompts(
    body: bytes, decoder: msgspec.json.Decoder[P], *, syntax: str, invalid: str
) -> tuple[P, tuple[Prompt, ...]]:
    """`body` as a struct, and its prompts, of which there is one at least; errors as `read_json` has them."""
    left_out_bytes = 0
    if is_long(body) and _problem(body) is None:
        body, left_out_bytes = cut(body)
    parsed = _decode(body, decoder, syntax=syntax, invalid=invalid)
    try:
        prompts = parsed.prompts()
    except ValueError:  # a token id that is no uint32
        prompts = ()
    if not prompts:
        raise RequestError(Code.BAD_REQUEST, invalid)
    return parsed, lengthened(prompts, left_out_bytes) if left_out_bytes else prompts


def _decode(body: bytes, decoder: msgspec.json.Decoder[P], *, syntax: str, invalid: str) -> P:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    body = _repair(body)
    if (problem := _problem(body)) is not None:
        raise RequestError(Code.BAD_REQUEST, f"{syntax}: {problem}")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        _blame(body, decoder, invalid)


def token_limit(value: object) -> int | None:
    """`value` as a number of tokens; None when it is not one. JSON writers of some languages write 16.0 for 16."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    return None


def choice_count(value: object) -> int:
    """`value`, an `n`, as a number of choices: 1 where it is none."""
    return 1 if value is None else min(token_limit(value) or 1, MOST_CHOICES)


def _repair(body: bytes) -> bytes:
    """`body` with U+FFFD for everything that cannot be text."""
    return _LONE_SURROGATE.sub(rb"\\ufffd", body.decode(errors="replace").encode())


def _problem(body: bytes) -> str | None:
    """Why `body` is no JSON object; None: it is one."""
    try:
        _any_object.decode(body)
    except RecursionError:
        return "nested too deeply"
    except (msgspec.MsgspecError, ValueError) as error:
        return _detail(str(error))
    return None


def _detail(text: str) -> str:
    """The decoder's words, which name kinds of values and positions, never content."""
    if text == "Input data was truncated":
        return "unexpected end of JSON input"
    text = text.removeprefix(_MALFORMED)
    return (text[:1].lower() + text[1:]).replace("`", "")


def _blame(body: bytes, decoder: msgspec.json.Decoder[P], invalid: str) -> NoReturn:
    """Blame the model name when all else is well: the order in which the Go EPP checks."""
    try:
        decoder.decode(replace_model(body, ""))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise RequestError(Code.BAD_REQUEST, invalid) from None
    raise RequestError(Code.BAD_REQUEST, MODEL_NOT_FOUND)
