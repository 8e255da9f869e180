"""The canonical bytes of prompts: what the model sees, in its order, in a form whose prefixes can be compared.

A conversation is a header (tools and the like, as the client wrote them) and its messages. Every message begins with a
mark and ends with its last part, so the bytes of a conversation begin with the bytes of each earlier state of it. The
marks are bytes that no UTF-8 text holds; a text cannot imitate them. Media count as a mark and 16 bytes of hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec
import xxhash

from epp.api import Prompt
from epp_plugins.parsers.token_ids import token_prompt

Pieces: TypeAlias = list[bytes]
Texts: TypeAlias = "str | list[str | int | list[int]] | None"

MESSAGE: Final = b"\xff"
FIELD: Final = b"\xfe"
MEDIA: Final = b"\xfd"
HEADER: Final = b"\xfc"
ABSENT: Final = msgspec.Raw(b"")
# No more of a prompt is kept for comparing prefixes: a hundred megabytes of text shall not be in memory several times over.
# It is eight times what producers compare by default (131072 tokens).
KEPT_BYTES: Final = 4 * 1024 * 1024
_NULL: Final = msgspec.Raw(b"null")


class _Beginning(bytes):
    """The beginning of a long text, and how many bytes of it (at least, for other than ASCII) are left out."""

    rest_bytes: int


def utf8(text: str) -> bytes:
    """A text's bytes; of one beyond KEPT_BYTES the beginning."""
    if len(text) <= KEPT_BYTES:
        return text.encode()
    beginning = _Beginning(text[:KEPT_BYTES].encode())
    beginning.rest_bytes = len(text) - KEPT_BYTES
    return beginning


class _Source(msgspec.Struct):
    """Where a medium says what it is: by address, or by its data."""

    url: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT


_source: Final = msgspec.json.Decoder(_Source)


class Part(msgspec.Struct, gc=False):
    """One part of a message's content, of the chat completions or the Responses API."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    image_url: msgspec.Raw = ABSENT
    video_url: msgspec.Raw = ABSENT
    audio_url: msgspec.Raw = ABSENT
    input_audio: msgspec.Raw = ABSENT
    image_embeds: msgspec.Raw = ABSENT
    file: msgspec.Raw = ABSENT
    file_id: msgspec.Raw = ABSENT
    file_url: msgspec.Raw = ABSENT
    file_data: msgspec.Raw = ABSENT

    def add_to(self, pieces: Pieces) -> None:
        if self.text is not None:
            pieces += (FIELD, utf8(self.text))
            return
        pieces += (FIELD, (self.refusal or self.type or "").encode())
        add_media(pieces, self.image_url, self.video_url, self.audio_url, self.input_audio, self.image_embeds)
        add_media(pieces, self.file, self.file_id, self.file_url, self.file_data)


class Message(msgspec.Struct, gc=False):
    """A message of the chat completions API."""

    role: str | None = None
    content: str | list[str | Part] | None = None
    tool_calls: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    reasoning_content: msgspec.Raw = ABSENT

    def add_to(self, pieces: Pieces) -> None:
        content = self.content
        if isinstance(content, str):
            pieces += (MESSAGE, (self.role or "").encode(), FIELD, utf8(content))
        else:
            add_message(pieces, self.role, content)
        if self.reasoning_content is self.tool_calls is self.name is ABSENT:
            return  # most messages
        add_raw(pieces, self.reasoning_content, self.tool_calls, self.name)


class Item(msgspec.Struct, gc=False):
    """An item of the Responses or the conversations API: a message, a tool call or its output, a reasoning."""

    type: str | None = None
    role: str | None = None
    content: str | list[str | Part] | None = None
    name: msgspec.Raw = ABSENT
    arguments: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    action: msgspec.Raw = ABSENT
    output: msgspec.Raw = ABSENT
    summary: msgspec.Raw = ABSENT
    encrypted_content: msgspec.Raw = ABSENT
    id: msgspec.Raw = ABSENT

    def add_to(self, pieces: Pieces) -> None:
        kind = self.role or self.type
        add_message(pieces, kind, self.content)
        add_raw(pieces, self.summary, self.encrypted_content, self.name, self.arguments, self.input, self.action)
        add_raw(pieces, self.output)
        if kind == "item_reference":
            add_raw(pieces, self.id)


def add_message(pieces: Pieces, role: str | None, content: str | Sequence[str | Part] | None) -> None:
    """A message's mark, its role, and its texts and media. A text counts the same alone and as the only part."""
    pieces += (MESSAGE, (role or "").encode())
    if isinstance(content, str):
        pieces += (FIELD, utf8(content))
    elif content is not None:
        for part in content:
            if isinstance(part, str):
                pieces += (FIELD, utf8(part))
            else:
                part.add_to(pieces)


def add_raw(pieces: Pieces, *values: msgspec.Raw) -> None:
    """JSON values as the client wrote them; those that are absent or null count for nothing."""
    for value in values:
        if value and value != _NULL:
            pieces += (FIELD, value)


def add_media(pieces: Pieces, *values: msgspec.Raw) -> None:
    """Hashes of media; those that are absent or null count for nothing."""
    for value in values:
        if value and value != _NULL:
            pieces += (MEDIA, _media_digest(value))


def add_header(pieces: Pieces, name: bytes, *values: msgspec.Raw) -> None:
    """What stands before all messages, such as tools."""
    for value in values:
        if value and value != _NULL:
            pieces += (HEADER, name, FIELD, value)


def joined(pieces: Pieces) -> Prompt:
    """The prompt that `pieces` make, of a very long one the beginning."""
    size = sum(map(len, pieces))
    if size < KEPT_BYTES:
        return Prompt(b"".join(pieces))
    kept, left = [], KEPT_BYTES
    for piece in pieces:
        kept.append(piece[:left])
        left -= len(kept[-1])
        if isinstance(piece, _Beginning):
            size += piece.rest_bytes
    return Prompt(b"".join(kept), size_bytes=size)


def text_prompts(value: Texts) -> tuple[Prompt, ...]:
    """The prompts of a text, texts, token ids, or lists of token ids; none for empty ones.

    Raises ValueError for a token id that is no uint32, and for a list that mixes ids with anything else.
    """
    if not value:
        return ()
    if isinstance(value, str):
        return (joined([utf8(value)]),)
    if isinstance(value[0], int):
        return (token_prompt(value),)
    return tuple(_prompt(one) for one in value)


def _prompt(value: str | int | list[int]) -> Prompt:
    if isinstance(value, str):
        return joined([utf8(value)])
    if isinstance(value, int):
        raise ValueError("token ids and texts are mixed")
    return token_prompt(value)


def _media_digest(value: msgspec.Raw) -> bytes:
    """16 bytes that tell this medium from others. Clients write `{"url": ...}` with different spaces, so its value counts."""
    try:
        source = _source.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return xxhash.xxh3_128_digest(value)
    return xxhash.xxh3_128_digest(source.url or source.data or value)
