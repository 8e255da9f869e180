"""The request bodies of the OpenAI APIs: the fields that routing needs, and the prompts that they make.

A field that is typed here makes the body invalid when it holds something else, as in the Go EPP.
"""

from __future__ import annotations

from typing import Any

import msgspec

from epp.api import Prompt
from epp_plugins.parsers.json_body import JsonBody, choice_count, token_limit
from epp_plugins.parsers.prompts import (
    ABSENT,
    Item,
    Message,
    Pieces,
    Texts,
    add_header,
    add_message,
    joined,
    text_prompts,
)


class ChatBody(JsonBody, gc=False):
    """`chat/completions`"""

    messages: list[Message] | None = None
    tools: list[msgspec.Raw] | None = None
    documents: list[msgspec.Raw] | None = None
    chat_template: str | None = None
    chat_template_kwargs: msgspec.Raw = ABSENT
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_assistant_tokens_mask: bool | None = None
    max_completion_tokens: Any = None
    n: Any = None

    def prompts(self) -> tuple[Prompt, ...]:
        if not self.messages:
            return ()
        pieces = Pieces()
        if self.chat_template is not None:
            add_header(pieces, b"chat_template", msgspec.Raw(self.chat_template.encode()))
        add_header(pieces, b"chat_template_kwargs", self.chat_template_kwargs)
        add_header(pieces, b"tools", *(self.tools or ()))
        add_header(pieces, b"documents", *(self.documents or ()))
        for message in self.messages:
            message.add_to(pieces)
        return (joined(pieces),)

    def output_limit(self) -> int | None:
        limit = token_limit(self.max_completion_tokens)
        return token_limit(self.max_tokens) if limit is None else limit

    def choices(self, prompts: int) -> int:
        return choice_count(self.n)


class CompletionsBody(JsonBody, gc=False):
    """`completions`, and `images/generations`, which has the same field."""

    prompt: Texts = None
    n: Any = None

    def prompts(self) -> tuple[Prompt, ...]:
        return text_prompts(self.prompt)

    def choices(self, prompts: int) -> int:
        return prompts * choice_count(self.n)


class EmbeddingsBody(JsonBody, gc=False):
    """`embeddings`"""

    input: Texts = None

    def prompts(self) -> tuple[Prompt, ...]:
        return text_prompts(self.input)


class ResponsesBody(JsonBody, gc=False):
    """`responses`"""

    input: str | list[Item] | None = None
    instructions: msgspec.Raw = ABSENT
    tools: list[msgspec.Raw] | None = None
    previous_response_id: msgspec.Raw = ABSENT
    max_output_tokens: Any = None

    def prompts(self) -> tuple[Prompt, ...]:
        if not self.input:
            return ()
        pieces = Pieces()
        add_header(pieces, b"previous_response_id", self.previous_response_id)
        add_header(pieces, b"instructions", self.instructions)
        add_header(pieces, b"tools", *(self.tools or ()))
        if isinstance(self.input, str):
            add_message(pieces, "user", self.input)
            return (joined(pieces),)
        for item in self.input:
            item.add_to(pieces)
        return (joined(pieces),)

    def output_limit(self) -> int | None:
        limit = token_limit(self.max_output_tokens)
        return token_limit(self.max_tokens) if limit is None else limit


class ConversationsBody(JsonBody, gc=False):
    """`conversations`"""

    items: list[Item] | None = None

    def prompts(self) -> tuple[Prompt, ...]:
        if not self.items:
            return ()
        pieces = Pieces()
        for item in self.items:
            item.add_to(pieces)
        return (joined(pieces),)
