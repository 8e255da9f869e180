"""Token usage in the answers of model servers, in any split and with any nonsense in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from epp.api import Request, Usage
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.json_usage import MAX_BYTES
from epp_plugins.parsers.lines import MAX_LINE_BYTES
from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.parsers.sglanghttp_parser import SglangHttpParser
from epp_plugins.parsers.usage import document_usage
from tests.support.parsing import read_usage, response
from tests.support.plugins import make_plugin

FIXTURES = Path(__file__).parents[2] / "fixtures"
EVENTS = "text/event-stream; charset=utf-8"
COUNTED = Usage(prompt_tokens=6, completion_tokens=3, total_tokens=9, cached_tokens=0)


def json_usage(document: object) -> Usage | None:
    return read_usage(OpenAIParser, [json.dumps(document).encode()])


def events_usage(*data: str) -> Usage | None:
    return read_usage(OpenAIParser, ["".join(f"data: {d}\n\n" for d in data).encode()], content_type=EVENTS)


def test_the_usage_of_a_vllm_answer_is_read() -> None:
    body = (FIXTURES / "vllm-0.32-chat.txt").read_bytes()

    assert read_usage(OpenAIParser, [body[:100], body[100:]]) == COUNTED


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_the_usage_of_a_vllm_stream_is_read_in_any_split(size: int) -> None:
    body = (FIXTURES / "vllm-0.32-chat-stream.txt").read_bytes()
    chunks = [body[i : i + size] for i in range(0, len(body), size)]

    assert read_usage(OpenAIParser, chunks, content_type=EVENTS) == COUNTED


@pytest.mark.parametrize("details", ["prompt_tokens_details", "input_tokens_details", "prompt_token_details"])
def test_cached_tokens_are_read_under_every_spelling(details: str) -> None:
    usage = json_usage({"object": "text_completion", "usage": {"prompt_tokens": 5, details: {"cached_tokens": 4}}})

    assert usage == Usage(prompt_tokens=5, cached_tokens=4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("response", Usage(prompt_tokens=1, completion_tokens=2)),
        ("conversation.item", Usage(prompt_tokens=1, completion_tokens=2)),
        ("chat.completion", Usage(prompt_tokens=3, completion_tokens=4)),
        ("text_completion", Usage(prompt_tokens=3, completion_tokens=4)),
        ("list", Usage(prompt_tokens=1, completion_tokens=2)),
        (None, Usage(prompt_tokens=1, completion_tokens=2)),
        ({"odd": 1}, Usage(prompt_tokens=1, completion_tokens=2)),
    ],
)
def test_the_kind_of_object_says_which_names_count(kind: object, expected: Usage) -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "prompt_tokens": 3, "completion_tokens": 4}

    assert json_usage({"object": kind, "usage": usage}) == expected


def test_an_embedding_list_has_prompt_tokens() -> None:
    usage = json_usage({"object": "list", "data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}})

    assert usage == Usage(prompt_tokens=3, total_tokens=3)


@pytest.mark.parametrize("value", ["3", 3.5, -1, True, None, [3], {"n": 3}, 10**30])
def test_what_is_no_count_is_ignored(value: object) -> None:
    assert json_usage({"usage": {"prompt_tokens": value, "completion_tokens": 2}}) == Usage(completion_tokens=2)


@pytest.mark.parametrize("usage", ["many", 7, None, [], {}, {"prompt_tokens_details": 5}, {"prompt_tokens": "x"}])
def test_a_usage_that_says_nothing_is_none(usage: object) -> None:
    assert json_usage({"usage": usage}) is None
    assert events_usage(json.dumps({"usage": usage})) is None


@pytest.mark.parametrize("body", [b"", b"oops", b"[1]", b'{"usage":', b'{"usage":' + b"[" * 5000, b"\xff\xfe"])
def test_a_body_that_is_no_json_object_has_no_usage(body: bytes) -> None:
    assert read_usage(OpenAIParser, [body]) is None
    assert read_usage(OpenAIParser, [b"data: " + body + b"\n"], content_type=EVENTS) is None


def test_usage_on_a_chunk_with_choices_is_read() -> None:
    """llama.cpp sends it there for completions."""
    usage = events_usage(
        '{"choices":[{"text":"a"}]}', '{"choices":[{"text":""}],"usage":{"prompt_tokens":2}}', "[DONE]"
    )

    assert usage == Usage(prompt_tokens=2)


def test_of_continuous_usage_the_last_counts() -> None:
    counts = [json.dumps({"usage": {"prompt_tokens": 2, "completion_tokens": n}}) for n in (1, 2, 3)]

    assert events_usage(*counts, '{"usage":null}') == Usage(prompt_tokens=2, completion_tokens=3)


def test_the_last_event_may_lack_its_line_feed() -> None:
    assert read_usage(OpenAIParser, [b'data: {"usage":{"prompt_tokens":2}}'], content_type=EVENTS) == Usage(
        prompt_tokens=2
    )


def test_generated_text_that_mentions_usage_does_not_count() -> None:
    assert (
        events_usage(json.dumps({"choices": [{"text": '{"usage": {"prompt_tokens": 5}}'}], "delta": "usage"})) is None
    )


def test_the_completed_event_of_a_response_holds_its_usage() -> None:
    usage = {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11, "input_tokens_details": {"cached_tokens": 4}}
    event = {"type": "response.completed", "response": {"object": "response", "usage": usage}}

    expected = Usage(prompt_tokens=5, completion_tokens=6, total_tokens=11, cached_tokens=4)
    assert events_usage('{"type":"response.created","response":{"usage":null}}', json.dumps(event)) == expected


def test_anthropic_usage_is_merged_field_by_field() -> None:
    body = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1,'
        b'"cache_read_input_tokens":4}}}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":7}}\n\n'
    )
    usage = read_usage(AnthropicParser, [body], path="/v1/messages", content_type=EVENTS)

    assert usage == Usage(prompt_tokens=9, completion_tokens=7, cached_tokens=4)


def test_a_long_document_is_read_at_its_end_in_bounded_memory() -> None:
    numbers = b'{"object":"list","data":[' + b"0.125," * (MAX_BYTES // 6 + 10) + b'0],"usage":{"prompt_tokens": 3} }'
    chunks = [numbers[i : i + 60_000] for i in range(0, len(numbers), 60_000)]

    assert read_usage(OpenAIParser, chunks) == Usage(prompt_tokens=3)


def test_a_long_document_without_usage_at_its_end_has_none() -> None:
    body = b'{"usage":{"prompt_tokens":3},"data":"' + b"x" * MAX_BYTES + b'\\"usage\\":{\\"prompt_tokens\\":4}"}'

    assert read_usage(OpenAIParser, [body]) is None


@pytest.mark.parametrize("size", [50_000, MAX_LINE_BYTES * 2])
def test_a_line_that_is_too_long_is_dropped_and_the_next_is_read(size: int) -> None:
    body = (
        b'data: {"usage":{"prompt_tokens":1},"x":"'
        + b"x" * MAX_LINE_BYTES
        + b'"}\n\ndata: {"usage":{"prompt_tokens":2}}\n\n'
    )
    chunks = [body[i : i + size] for i in range(0, len(body), size)]

    assert read_usage(OpenAIParser, chunks, content_type=EVENTS) == Usage(prompt_tokens=2)


def test_sglang_usage_counts_once_the_answer_is_finished() -> None:
    def event(reason: object, completion: int) -> str:
        info = {"finish_reason": reason, "prompt_tokens": 4, "completion_tokens": completion, "cached_tokens": 2}
        return "data: " + json.dumps({"text": "a", "meta_info": info}) + "\n\n"

    unfinished, finished = event(None, 1), event({"type": "stop"}, 5)

    expected = Usage(prompt_tokens=4, completion_tokens=5, cached_tokens=2)
    assert read_usage(SglangHttpParser, [unfinished.encode()], path="/generate", content_type=EVENTS) is None
    assert (
        read_usage(SglangHttpParser, [(unfinished + finished).encode()], path="/generate", content_type=EVENTS)
        == expected
    )
    assert read_usage(SglangHttpParser, [finished[6:].encode()], path="/generate") == expected


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "text/html"])
def test_other_content_has_no_reader(content_type: str) -> None:
    request = Request("r", {":path": "/v1/completions"})

    assert make_plugin(OpenAIParser).usage_reader(request, response(content_type)) is None


def test_a_compressed_answer_has_no_reader() -> None:
    request = Request("r", {":path": "/v1/completions"})

    assert make_plugin(OpenAIParser).usage_reader(request, response(content_encoding="gzip")) is None


@pytest.mark.parametrize("path", ["/v1/completions/render", "/v1/chat/completions/render?x=1"])
def test_rendering_has_no_usage(path: str) -> None:
    assert make_plugin(OpenAIParser).usage_reader(Request("r", {":path": path}), response()) is None


def test_an_answer_without_content_type_is_read_as_json() -> None:
    assert read_usage(OpenAIParser, [b'{"usage":{"prompt_tokens":1}}'], content_type="") == Usage(prompt_tokens=1)


@pytest.mark.parametrize("kind", ["chat.completion", "something.else"])
@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, Usage(3, 2, 5)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}, Usage(3, cached_tokens=1)),
        (
            {"prompt_tokens": 3, "prompt_tokens_details": None, "input_tokens_details": {"cached_tokens": 1}},
            Usage(3, cached_tokens=1),
        ),
        (
            {"prompt_tokens": 3, "prompt_tokens_details": {}, "prompt_token_details": {"cached_tokens": 1}},
            Usage(3, cached_tokens=1),
        ),
        ({"prompt_tokens": 3, "cache_read_input_tokens": 2}, Usage(3, cached_tokens=2)),
        (
            {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}, "cache_read_input_tokens": 2},
            Usage(3, cached_tokens=0),
        ),
        ({"prompt_tokens": -3, "completion_tokens": True, "total_tokens": 5}, Usage(total_tokens=5)),
        ({"prompt_tokens": "3", "completion_tokens": 2.5}, None),
        ({"prompt_tokens": 1 << 63, "completion_tokens": (1 << 63) - 1}, Usage(completion_tokens=(1 << 63) - 1)),
        ({"prompt_tokens": 3, "prompt_tokens_details": "none"}, Usage(3)),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
def test_usage_is_what_can_be_counted_whatever_the_rest_is(kind: str, usage: object, expected: Usage | None) -> None:
    """The common kinds of answers are read on a short way, which must tell the same."""
    document = json.dumps({"id": "x", "object": kind, "usage": usage}).encode()

    assert document_usage(document) == expected
