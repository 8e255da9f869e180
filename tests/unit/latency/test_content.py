"""Which events bring generated content: seen with real servers, and in any split."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_plugins.latency.content import EventContent


def event(**data: object) -> bytes:
    return b"data: %s\n\n" % json.dumps(data).encode()


def chat(**delta: object) -> bytes:
    return event(id="c-1", object="chat.completion.chunk", model="m", choices=[{"index": 0, "delta": delta}])


WITH = [
    chat(content="Hello"),
    chat(content=' "content": ""'),
    chat(reasoning_content="hm"),
    chat(reasoning="hm"),
    chat(role="assistant", content="He"),
    chat(tool_calls=[{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]),
    chat(tool_calls=[{"index": 0, "function": {"arguments": "{"}}]),
    event(object="text_completion", choices=[{"index": 0, "text": "a"}]),
    event(choices=[{"index": 0, "token_ids": [17]}]),
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}\n\n',
    b'event: response.output_text.delta\r\ndata: {"type":"response.output_text.delta","delta":"Hi"}\r\n\r\n',
]
WITHOUT = [
    b"data: [DONE]\n\n",
    b": ping\n\n",
    chat(role="assistant", content=""),
    chat(role="assistant", content=None),
    chat(),
    event(object="chat.completion.chunk", choices=[{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]),
    event(object="chat.completion.chunk", choices=[], usage={"prompt_tokens": 5, "completion_tokens": 7}),
    event(object="text_completion", choices=[{"index": 0, "text": "", "finish_reason": "length"}]),
    event(choices=[{"index": 0, "token_ids": [], "prompt_token_ids": [1, 2]}]),
    event(error={"message": "engine died", "type": "InternalServerError", "code": 500}),
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","role":"assistant","content":[]}}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","content_block":{"type":"text","text":""}}\n\n',
]


@pytest.mark.parametrize("data", WITH)
def test_content_is_found(data: bytes) -> None:
    assert EventContent().feed(data) == 1


@pytest.mark.parametrize("data", WITHOUT)
def test_what_brings_no_token_is_none(data: bytes) -> None:
    assert EventContent().feed(data) == 0


def test_a_quoted_field_in_the_generated_text_counts_once() -> None:
    assert EventContent().feed(chat(content='{"content": "x", "text": "y"}')) == 1


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, len(WITH) - 1), st.integers(0, len(WITHOUT) - 1)), max_size=8),
    st.lists(st.integers(1, 60), max_size=40),
)
def test_events_count_the_same_in_any_split(chosen: list[tuple[bool, int, int]], cuts: list[int]) -> None:
    stream = b"".join(WITH[i] if with_content else WITHOUT[j] for with_content, i, j in chosen)
    counter, count, at = EventContent(), 0, 0

    for cut in cuts:
        count += counter.feed(stream[at : at + cut])
        at += cut
    count += counter.feed(stream[at:])

    assert count == sum(with_content for with_content, _, _ in chosen)


def test_a_line_of_any_length_keeps_little() -> None:
    counter = EventContent()

    count = sum(
        counter.feed(piece) for piece in [b"data: ", *[b"x" * 1000] * 1000, b'"content": "y"', b' "text": "z"\n']
    )

    assert count == 1
    assert len(counter._tail) <= 64
