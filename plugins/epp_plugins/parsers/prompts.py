"""The canonical bytes of prompts: what the model sees, in its order, in a form whose prefixes can be compared.

A conversation is a header (tools and the like, as the client wrote them) and its messages. Every message begins with a
mark and ends with its last part, so the bytes of a conversation begin with the bytes of each earlier state of it. The
marks are bytes that no UTF-8 text holds; a text cannot imitate them. A medium is a mark, 16 bytes of hash, and zeros up
to four bytes for each token that it is estimated to take (see `media_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

import msgspec
import xxhash

from epp.api import Medium, Prompt
from epp_plugins.image_size import size_in_base64
from epp_plugins.media_tokens import DEFAULT, LEAST_BYTES, NO_HINTS, size_bytes
from epp_plugins.parsers.token_ids import token_prompt

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
_BASE64: Final = b"base64,"
_HEAD_CHARS: Final = 100  # before the base64 of a data URL
_AUDIO_BYTES_PER_S: Final = 16_000  # of compressed speech and music, 128 kbit/s


class Pieces(list[bytes]):
    """The parts of one prompt in their order, and its media with the places of their hashes among the parts."""

    __slots__ = ("left_out_bytes", "media", "text_bytes", "zeros")

    def __init__(self, pieces: Iterable[bytes] = ()) -> None:
        super().__init__(pieces)
        self.media: list[tuple[int, Medium]] = []
        self.text_bytes = 0
        self.zeros = 0
        self.left_out_bytes = 0

    def add_text(self, text: str) -> None:
        """A field. Of texts beyond KEPT_BYTES only the length counts: no prompt has room for them."""
        if self.text_bytes >= KEPT_BYTES:
            self.left_out_bytes += len(FIELD) + (len(text) if text.isascii() else len(text.encode()))
            return
        self += (FIELD, utf8(text))
        self.text_bytes += len(self[-1])

    def add_medium(self, medium: Medium) -> None:
        self.media.append((len(self), medium))
        self += (MEDIA, medium.content_hash)
        zeros = size_bytes(medium.tokens) - LEAST_BYTES
        # A request of many media that claim to be large must not take more memory than one with a long text.
        kept = min(zeros, KEPT_BYTES - self.zeros)
        self.zeros += kept
        self.left_out_bytes += zeros - kept
        self.append(bytes(kept))


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


class _Source(msgspec.Struct, gc=False):
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
            pieces.add_text(self.text)
            return
        pieces += (FIELD, (self.refusal or self.type or "").encode())
        add_media(pieces, "image", self.image_url, self.image_embeds)
        add_media(pieces, "video", self.video_url)
        add_media(pieces, "audio", self.audio_url, self.input_audio)
        add_media(pieces, "file", self.file, self.file_id, self.file_url, self.file_data)


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
            pieces += (MESSAGE, (self.role or "").encode())
            pieces.add_text(content)
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
        pieces.add_text(content)
    elif content is not None:
        for part in content:
            if isinstance(part, str):
                pieces.add_text(part)
            else:
                part.add_to(pieces)


def add_raw(pieces: Pieces, *values: msgspec.Raw) -> None:
    """JSON values as the client wrote them; those that are absent or null count for nothing."""
    for value in values:
        if value and value != _NULL:
            pieces += (FIELD, value)


def add_media(pieces: Pieces, kind: str, *values: msgspec.Raw) -> None:
    """Media; those that are absent or null count for nothing."""
    for value in values:
        if value and value != _NULL:
            pieces.add_medium(_medium(kind, value))


def add_header(pieces: Pieces, name: bytes, *values: msgspec.Raw) -> None:
    """What stands before all messages, such as tools."""
    for value in values:
        if value and value != _NULL:
            pieces += (HEADER, name, FIELD, value)


def joined(pieces: Pieces) -> Prompt:
    """The prompt that `pieces` make, of a very long one the beginning."""
    media = _placed(pieces) if pieces.media else ()
    size = sum(map(len, pieces)) + pieces.left_out_bytes
    if size < KEPT_BYTES:
        return Prompt(b"".join(pieces), media=media)
    kept, left = [], KEPT_BYTES
    for piece in pieces:
        kept.append(piece[:left])
        left -= len(kept[-1])
        if isinstance(piece, _Beginning):
            size += piece.rest_bytes
    return Prompt(b"".join(kept), size_bytes=size, media=media)


def _placed(pieces: Pieces) -> tuple[Medium, ...]:
    """The media of what is kept, each with the place of its mark in the data."""
    starts = [0, *accumulate(map(len, pieces))]
    placed = [msgspec.structs.replace(medium, at=starts[index]) for index, medium in pieces.media]
    return tuple([medium for medium in placed if medium.at + LEAST_BYTES <= KEPT_BYTES])


def lengthened(prompts: tuple[Prompt, ...], more_bytes: int) -> tuple[Prompt, ...]:
    """The longest counts as so many bytes longer than it is."""
    sizes = [prompt.size_bytes or len(prompt.data) for prompt in prompts]
    longest = sizes.index(max(sizes))
    longer = msgspec.structs.replace(prompts[longest], size_bytes=sizes[longest] + more_bytes)
    return (*prompts[:longest], longer, *prompts[longest + 1 :])


def text_prompts(value: Texts) -> tuple[Prompt, ...]:
    """The prompts of a text, texts, token ids, or lists of token ids; none for empty ones.

    Raises ValueError for a token id that is no uint32, and for a list that mixes ids with anything else.
    """
    if not value:
        return ()
    if isinstance(value, str):
        return (_text_prompt(value),)
    if isinstance(value[0], int):
        return (token_prompt(value),)
    return tuple(_prompt(one) for one in value)


def _prompt(value: str | int | list[int]) -> Prompt:
    if isinstance(value, str):
        return _text_prompt(value)
    if isinstance(value, int):
        raise ValueError("token ids and texts are mixed")
    return token_prompt(value)


def _text_prompt(text: str) -> Prompt:
    data = utf8(text)
    return Prompt(data) if len(data) < KEPT_BYTES else joined(Pieces((data,)))


def _medium(kind: str, value: msgspec.Raw) -> Medium:
    """Clients write `{"url": ...}` with different spaces, so of an object its address or its data tells it from others."""
    try:
        source = _source.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        source = _Source(url=value)
    content = source.url or source.data or value
    width = height = 0
    seconds = 0.0
    if kind == "image":
        width, height = _pixels(content, inline=bool(source.data))
    elif kind == "audio":
        seconds = _inline_bytes(content, inline=bool(source.data)) / _AUDIO_BYTES_PER_S
    medium = Medium(xxhash.xxh3_128_digest(content), kind=kind, width=width, height=height, seconds=seconds)
    return msgspec.structs.replace(medium, tokens=DEFAULT.tokens(medium, NO_HINTS))


def _pixels(content: msgspec.Raw, *, inline: bool) -> tuple[int, int]:
    """Of an image that came along; zeros of one that is only named."""
    start = _base64_start(content, inline=inline)
    return size_in_base64(memoryview(content)[start:-1]) if start else (0, 0)


def _inline_bytes(content: msgspec.Raw, *, inline: bool) -> int:
    """How long the data are that came along; 0 of what is only named."""
    start = _base64_start(content, inline=inline)
    return (len(memoryview(content)) - 1 - start) * 3 // 4 if start else 0


def _base64_start(content: msgspec.Raw, *, inline: bool) -> int:
    """Where the base64 in a JSON text begins that is nothing else (`inline`) or a data URL; 0 where there is none."""
    if inline:
        return 1
    head = bytes(memoryview(content)[:_HEAD_CHARS])
    if not head.startswith(b'"data:'):
        return 0
    found = head.find(_BASE64)
    return found + len(_BASE64) if found >= 0 else 0
