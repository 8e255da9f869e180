"""openai-parser: the OpenAI APIs, in the paths, the checks and the error texts of the Go EPP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from epp.api import Payload, Request, Response, UsageReader
from epp_plugins.media_tokens import count_anew
from epp_plugins.parsers.json_body import JsonPayload, read_json
from epp_plugins.parsers.json_parser import JsonParser
from epp_plugins.parsers.openai_bodies import (
    ChatBody,
    CompletionsBody,
    ConversationsBody,
    EmbeddingsBody,
    ResponsesBody,
)

SYNTAX: Final = "error unmarshaling request bodyMap"
_RENDER: Final = "/render"

_chat: Final = msgspec.json.Decoder(ChatBody)
_completions: Final = msgspec.json.Decoder(CompletionsBody)
_embeddings: Final = msgspec.json.Decoder(EmbeddingsBody)
_responses: Final = msgspec.json.Decoder(ResponsesBody)
_conversations: Final = msgspec.json.Decoder(ConversationsBody)


def read_chat(body: bytes) -> JsonPayload:
    return read_json(
        body, _chat, syntax=SYNTAX, invalid="invalid chat completions request: must have valid messages field"
    )


def read_completions(body: bytes) -> JsonPayload:
    return read_json(body, _completions, syntax=SYNTAX, invalid="invalid completions request: must have prompt field")


def read_embeddings(body: bytes) -> JsonPayload:
    return read_json(body, _embeddings, syntax=SYNTAX, invalid="invalid embeddings request: must have input field")


def read_responses(body: bytes) -> JsonPayload:
    return read_json(body, _responses, syntax=SYNTAX, invalid="invalid responses request: must have input field")


def read_conversations(body: bytes) -> JsonPayload:
    return read_json(
        body, _conversations, syntax=SYNTAX, invalid="invalid conversations request: must have items field"
    )


def read_images(body: bytes) -> JsonPayload:
    return read_json(
        body, _completions, syntax=SYNTAX, invalid="invalid images generations request: must have prompt field"
    )


# In the order in which suffixes are tried: the longer before the one that it ends with.
_READERS: Final[tuple[tuple[str, Callable[[bytes], JsonPayload]], ...]] = (
    ("chat/completions", read_chat),
    ("completions", read_completions),
    ("responses", read_responses),
    ("embeddings", read_embeddings),
    ("conversations", read_conversations),
    ("chat/completions/render", read_chat),
    ("completions/render", read_completions),
    ("images/generations", read_images),
)


class OpenAIParser(JsonParser):
    """Reads OpenAI requests. Any other path counts as completions, as in the Go EPP."""

    type = "openai-parser"

    def paths(self) -> Sequence[str]:
        return tuple(suffix for suffix, _ in _READERS)

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        for suffix, read in _READERS:
            if path.endswith(suffix):
                payload = read(body)
                count_anew(payload, headers)
                return payload
        return read_completions(body)

    def usage_reader(self, request: Request, response: Response) -> UsageReader | None:
        if request.path.partition("?")[0].rstrip("/").endswith(_RENDER):
            return None  # rendering spends no tokens
        return super().usage_reader(request, response)
