"""anthropic-parser: the Anthropic messages API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from epp.api import Code, Payload, Prompt, RequestError
from epp_plugins.parsers.json_body import JsonBody, read_json
from epp_plugins.parsers.json_parser import JsonParser
from epp_plugins.parsers.prompts import (
    ABSENT,
    HEADER,
    MESSAGE,
    Pieces,
    add_header,
    add_media,
    add_raw,
    joined,
)


class Block(msgspec.Struct, gc=False):
    """A content block: a text, a medium, a tool's use or result, a thought."""

    type: Any = None
    text: str | None = None
    source: msgspec.Raw = ABSENT
    thinking: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    content: msgspec.Raw = ABSENT


class AnthropicMessage(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | list[Block] | None = None


class MessagesBody(JsonBody, gc=False):
    """`messages`"""

    messages: list[AnthropicMessage] | None = None
    system: str | list[Block] | None = None
    tools: list[msgspec.Raw] | None = None

    def prompts(self) -> tuple[Prompt, ...]:
        if not self.messages:
            return ()
        pieces = Pieces()
        add_header(pieces, b"tools", *(self.tools or ()))
        if self.system:
            pieces += (HEADER, b"system")
            _add_content(pieces, self.system)
        for message in self.messages:
            pieces += (MESSAGE, (message.role or "").encode())
            _add_content(pieces, message.content)
        return (joined(pieces),)


_messages: Final = msgspec.json.Decoder(MessagesBody)


class AnthropicParser(JsonParser):
    """Reads `messages`; `messages/count_tokens` passes unread, and its response is of no interest."""

    type = "anthropic-parser"
    inner: ClassVar[bytes] = b"message"

    def paths(self) -> Sequence[str]:
        return ("messages", "messages/count_tokens")

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        if path.endswith("messages"):
            return read_json(
                body,
                _messages,
                syntax="error unmarshaling request body",
                invalid="invalid messages request: must have at least one message",
            )
        if path.endswith("messages/count_tokens"):
            return Payload(skip_response=True)
        raise RequestError(Code.BAD_REQUEST, f"unsupported API endpoint: {path}")


def _add_content(pieces: Pieces, content: str | Sequence[Block] | None) -> None:
    if isinstance(content, str):
        pieces.add_text(content)
        return
    for block in content or ():
        if block.text is not None:
            pieces.add_text(block.text)
        add_media(pieces, "file" if block.type == "document" else "image", block.source)
        add_raw(pieces, block.thinking, block.name, block.input, block.content)
