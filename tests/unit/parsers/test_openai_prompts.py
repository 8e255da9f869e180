"""The canonical bytes of OpenAI prompts: equal where the model's input is equal, and growing as a conversation grows."""

from __future__ import annotations

import json
import struct

import pytest

from epp.api import Prompt
from epp_plugins.parsers.openai_parser import OpenAIParser
from tests.support.parsing import parse

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
OTHER_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "B" * 5000}}


def chat(messages: list[dict[str, object]], **fields: object) -> bytes:
    body = {"model": "m", "messages": messages, **fields}
    (prompt,) = parse(OpenAIParser, "/v1/chat/completions", body).prompts
    return prompt.data


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


def prompts(path: str, **fields: object) -> tuple[Prompt, ...]:
    return parse(OpenAIParser, path, {"model": "m", **fields}).prompts


def test_a_completions_prompt_is_its_text() -> None:
    assert prompts("/v1/completions", prompt="héllo\n") == (Prompt("héllo\n".encode()),)


def test_token_ids_are_little_endian_words() -> None:
    (prompt,) = prompts("/v1/completions", prompt=[1, 2, 70000, (1 << 32) - 1])

    assert prompt == Prompt(struct.pack("<4I", 1, 2, 70000, (1 << 32) - 1), tokenized=True)
    assert prompt.token_count == 4


@pytest.mark.parametrize("path_and_field", [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
def test_lists_make_several_prompts(path_and_field: tuple[str, str]) -> None:
    path, field = path_and_field
    texts = prompts(path, **{field: ["a", "b"]})
    tokens = prompts(path, **{field: [[1, 2], [3]]})

    assert texts == (Prompt(b"a"), Prompt(b"b"))
    assert tokens == (Prompt(struct.pack("<2I", 1, 2), tokenized=True), Prompt(struct.pack("<I", 3), tokenized=True))


def test_a_single_text_part_equals_a_plain_text() -> None:
    assert chat(user([{"type": "text", "text": "hi"}])) == chat(user("hi")) == chat(user(["hi"]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("ab"), [*user("a"), *user("b")]),
        (user("a"), [{"role": "system", "content": "a"}]),
        (user([{"type": "text", "text": "ab"}]), user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])),
        (user([IMAGE]), user([OTHER_IMAGE])),
        (user([IMAGE]), user([])),
        (user([{"type": "custom"}]), user([])),
        (user([{"type": "refusal", "refusal": "no"}]), user([{"type": "refusal", "refusal": "never"}])),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}],
            [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "g", "arguments": "{}"}}]}],
        ),
        ([{"role": "user", "name": "ann", "content": "a"}], [{"role": "user", "name": "bob", "content": "a"}]),
    ],
)
def test_conversations_that_differ_have_other_bytes(
    one: list[dict[str, object]], other: list[dict[str, object]]
) -> None:
    assert chat(one) != chat(other)


@pytest.mark.parametrize("field", ["tools", "documents"])
def test_tools_and_documents_come_before_all_messages(field: str) -> None:
    one, other = chat(user("hi"), **{field: [{"a": 1}]}), chat(user("hi"), **{field: [{"a": 2}]})

    assert one != other
    assert one.endswith(chat(user("hi")))


@pytest.mark.parametrize("fields", [{"chat_template": "{{ x }}"}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_another_template_makes_other_bytes(fields: dict[str, object]) -> None:
    assert not chat(user("hi"), **fields).startswith(chat(user("hi")))


def test_null_fields_count_as_absent() -> None:
    message: dict[str, object] = {"role": "assistant", "content": "a", "tool_calls": None, "name": None}

    assert chat([message], tools=None, chat_template_kwargs=None) == chat([{"role": "assistant", "content": "a"}])


def test_a_medium_counts_the_same_however_its_json_is_spaced() -> None:
    body = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":%s}]}]}'
    one = parse(OpenAIParser, "/v1/chat/completions", body % b'{"url":"http://x/y.png"}')
    other = parse(OpenAIParser, "/v1/chat/completions", body % b'{ "detail": "low", "url" : "http://x/y.png" }')

    assert one.prompts == other.prompts


def test_an_image_takes_as_many_bytes_as_its_tokens_would() -> None:
    """225 tokens: nobody looks at what an address names."""
    image = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}

    assert len(chat(user([image]))) == len(chat(user([]))) + len(b"\xfe") + 9 + 4 * 225


@pytest.mark.parametrize(
    "part",
    [
        '{"type":"input_audio","input_audio":{"data":"%s","format":"wav"}}',
        '{"type":"video_url","video_url":{"url":"http://x/%s.mp4"}}',
        '{"type":"image_url","image_url":"http://x/%s.png"}',
    ],
)
def test_media_of_every_kind_are_told_apart(part: str) -> None:
    one, other = json.loads(part.replace("%s", "a")), json.loads(part.replace("%s", "b"))

    assert chat(user([one])) != chat(user([other]))


def test_a_responses_text_equals_its_one_item() -> None:
    text = prompts("/v1/responses", input="hi")
    item = prompts("/v1/responses", input=[{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}])

    assert text == item


@pytest.mark.parametrize(
    "fields", [{"instructions": "be brief"}, {"tools": [{"type": "x"}]}, {"previous_response_id": "resp_1"}]
)
def test_what_precedes_a_responses_input_counts(fields: dict[str, object]) -> None:
    (plain,) = prompts("/v1/responses", input="hi")
    (more,) = prompts("/v1/responses", input="hi", **fields)

    assert more.data.endswith(plain.data)
    assert len(more.data) > len(plain.data)


def test_items_of_a_responses_input_extend_each_other() -> None:
    items = [
        {"role": "user", "content": "what is the weather"},
        {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "sun"},
    ]
    states = [prompts("/v1/responses", input=items[:n])[0].data for n in (1, 2, 3)]

    assert states[1].startswith(states[0])
    assert states[2].startswith(states[1])
    assert len(set(states)) == 3


def test_conversation_items_count_as_a_responses_input() -> None:
    items = [{"type": "message", "role": "user", "content": "hi"}]

    assert prompts("/v1/conversations", items=items) == prompts("/v1/responses", input=items)


def test_an_image_prompt_is_its_text() -> None:
    assert prompts("/v1/images/generations", prompt="a cat") == (Prompt(b"a cat"),)
