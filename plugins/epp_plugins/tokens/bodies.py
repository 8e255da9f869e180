"""Request bodies as a tokenizing server, or a chat template, wants them. No I/O."""

from __future__ import annotations

from typing import Any, Final

import msgspec

CHAT: Final = "chat/completions"
COMPLETIONS: Final = "completions"
MESSAGES: Final = "messages"
RESPONSES: Final = "responses"
_KINDS: Final = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)

# What decides about the tokens besides the prompt's own text, as the parsers read it. Rare: then the whole body is the key.
_APART: Final = (
    b'"add_generation_prompt"',
    b'"continue_final_message"',
    b'"add_special_tokens"',
    b'"truncate_prompt_tokens"',
)


class ChatFields(msgspec.Struct, omit_defaults=True):
    """What `/tokenize` and chat templates read of a chat completion; any of it may hold anything."""

    messages: list[Any] = []
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class _Completions(msgspec.Struct):
    prompt: str | list[str | list[int] | int] = ""
    add_special_tokens: bool = True


_chat: Final = msgspec.json.Decoder(ChatFields)
_completions: Final = msgspec.json.Decoder(_Completions)


def kind_of(path: str) -> str:
    """Which API a request's path belongs to; empty: none that can be tokenized."""
    bare = path.partition("?")[0].rstrip("/")
    for kind in _KINDS:
        if bare.endswith(kind):
            return kind
    return ""


def told_apart(body: bytes) -> bytes:
    """`body` where it holds something that changes tokens and that prompts do not show, else nothing."""
    return body if any(name in body for name in _APART) else b""


def chat_fields(body: bytes) -> ChatFields | None:
    """None where the body is no chat completion that could be tokenized."""
    try:
        return _chat.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def texts(body: bytes) -> tuple[list[str], bool] | None:
    """The texts of a completion, and whether special tokens are added; None where there are others than texts."""
    try:
        fields = _completions.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    prompts = [fields.prompt] if isinstance(fields.prompt, str) else fields.prompt
    found = [p for p in prompts if isinstance(p, str)]
    return (found, fields.add_special_tokens) if len(found) == len(prompts) else None
