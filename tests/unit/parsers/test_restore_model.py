"""Answers name the model that the client asked for, and generated text stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.api import Parser
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.openai_parser import OpenAIParser
from tests.support.plugins import make_plugin

FIXTURES = Path(__file__).parents[2] / "fixtures"


def restored(body: bytes, cls: type[Parser] = OpenAIParser, *, sent: str = "small", asked: str = "public") -> bytes:
    return make_plugin(cls).restore_model(body, sent=sent, asked=asked)


@pytest.mark.parametrize("name", ["vllm-0.32-chat.txt", "vllm-0.32-chat-stream.txt"])
def test_answers_of_vllm_name_the_model_that_was_asked_for(name: str) -> None:
    body = (FIXTURES / name).read_bytes()

    assert restored(body) == body.replace(b'"model":"small"', b'"model":"public"')
    assert b'"public"' in restored(body)


def test_generated_text_is_left_alone() -> None:
    body = b'data: {"model":"small","choices":[{"delta":{"content":"\\"model\\":\\"small\\""}}]}\n\n'

    assert restored(body) == body.replace(b'{"model":"small"', b'{"model":"public"')


def test_a_responses_event_names_the_model_within() -> None:
    data = b'{"type":"response.completed","response":{"x":{"model":"small"},"model":"small"}}'
    body = b"event: response.completed\r\ndata: " + data + b"\r\n\r\n"

    assert restored(body) == body.replace(b'},"model":"small"', b'},"model":"public"')


def test_an_anthropic_event_names_the_model_within() -> None:
    body = b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","model":"small"}}\n\n'

    assert restored(body, AnthropicParser) == body.replace(b"small", b"public")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'data: {"model":"other"}\n\n',
        b'{"choices":[{"model":"small"}]}',
        b'"model":"small"',
        b"data: [DONE]\n\n",
        b': "model":"small"\n',
        b'data: "model": "small"\n',
    ],
)
def test_everything_else_comes_back_unchanged(body: bytes) -> None:
    assert restored(body) == body
