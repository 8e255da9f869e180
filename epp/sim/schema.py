"""Request bodies, as far as the simulator reads them, and the prompt each one stands for. No I/O.

Fields that it does not know are ignored, as vLLM does. Wrong types raise msgspec.ValidationError, which names the path.
"""

from __future__ import annotations

import msgspec
from xxhash import xxh64_hexdigest

from epp.sim.tokens import encode_ids

IMAGE_TOKENS = 64
"""Length of the placeholder that stands for an image; its content depends on the image's URL."""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Part(msgspec.Struct):
    """One part of a message's content: text, or anything else as raw JSON."""

    type: str = "text"
    text: str = ""
    image_url: msgspec.Raw = msgspec.Raw()


class Message(msgspec.Struct):
    role: str = "user"
    content: str | list[Part] | None = None


class CompletionRequest(msgspec.Struct):
    prompt: str | list[str | int | list[int]]
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = 16
    """16 unless said otherwise: the OpenAI API's own default for completions."""
    n: int = 1
    cache_salt: str | None = None


class ChatRequest(msgspec.Struct):
    messages: list[Message]
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = 1
    tools: msgspec.Raw = msgspec.Raw()
    cache_salt: str | None = None


class ResponsesRequest(msgspec.Struct):
    input: str | list[Message]
    model: str | None = None
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None
    cache_salt: str | None = None


class EmbeddingRequest(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: str | None = None
    dimensions: int | None = None
    cache_salt: str | None = None


class TokenizeRequest(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


def plain_prompts(prompt: str | list[str | int | list[int]]) -> list[bytes]:
    """The prompts of a completion or embedding request: a text, token ids, or a list of either. ValueError when mixed."""
    if isinstance(prompt, str):
        return [prompt.encode()]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids and len(ids) == len(prompt):
        return [encode_ids(ids)]
    if ids or not prompt:
        raise ValueError("prompt must be a string, a list of strings, a list of token ids or a list of such lists")
    return [encode_ids(item) if isinstance(item, list) else str(item).encode() for item in prompt]


def chat_prompt(messages: list[Message], *, tools: bytes = b"", instructions: str | None = None) -> bytes:
    """The prompt a chat becomes. An answer sent back as a message continues the prompt it answered, byte for byte."""
    parts = [tools] if tools else []
    if instructions is not None:
        parts.append(f"<|system|>{instructions}<|end|>".encode())
    parts.extend(
        b"".join((f"<|{message.role}|>".encode(), _content(message.content), b"<|end|>")) for message in messages
    )
    parts.append(b"<|assistant|>")
    return b"".join(parts)


def _content(content: str | list[Part] | None) -> bytes:
    if content is None:
        return b""
    if isinstance(content, str):
        return content.encode()
    return b"".join(part.text.encode() if part.text else _placeholder(part) for part in content)


def _placeholder(part: Part) -> bytes:
    raw = bytes(part.image_url)
    return (xxh64_hexdigest(raw).encode() * (IMAGE_TOKENS // 4)) if raw else b""
