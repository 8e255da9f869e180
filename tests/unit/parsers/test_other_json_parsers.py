"""The anthropic, vllmhttp, sglanghttp and passthrough parsers, and which paths all parsers claim."""

from __future__ import annotations

import struct

import pytest

from epp.api import Code, Parser, Payload, Request, RequestError, UsageReader
from epp_plugins.builtin_parsers import PARSERS
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.passthrough_parser import PassthroughParser
from epp_plugins.parsers.sglanghttp_parser import SglangHttpParser
from epp_plugins.parsers.vllmhttp_parser import VLLMHttpParser
from tests.support.parsing import parse, response
from tests.support.plugins import make_plugin


def messages(**fields: object) -> Payload:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse(AnthropicParser, "/v1/messages", body)


def generate(**fields: object) -> Payload:
    return parse(VLLMHttpParser, "/inference/v1/generate", {"model": "m", "token_ids": [1, 2, 3, 4], **fields})


def message_of(cls: type[Parser], path: str, body: object) -> str:
    with pytest.raises(RequestError) as caught:
        parse(cls, path, body)
    assert caught.value.code is Code.BAD_REQUEST
    return caught.value.message


@pytest.mark.parametrize(
    ("cls", "path", "body", "message"),
    [
        (AnthropicParser, "/v1/messages", {}, "invalid messages request: must have at least one message"),
        (AnthropicParser, "/v1/messages", {"messages": []}, "invalid messages request: must have at least one message"),
        (AnthropicParser, "/v1/messages", b"[]", "error unmarshaling request body: expected object, got array"),
        (AnthropicParser, "/v1/other", {}, "unsupported API endpoint: /v1/other"),
        (AnthropicParser, "/v1/messages", {"messages": [{}], "model": 1}, "model not found in request body"),
        (VLLMHttpParser, "/g", {"token_ids": []}, "invalid generate request: must have non-empty token_ids field"),
        (VLLMHttpParser, "/g", {"token_ids": [-1]}, "invalid generate request: must have non-empty token_ids field"),
        (VLLMHttpParser, "/g", b"{", "error unmarshaling request body: unexpected end of JSON input"),
        (SglangHttpParser, "/generate", {}, "invalid generate request: must have non-empty input_ids field"),
        (
            SglangHttpParser,
            "/generate",
            {"input_ids": [-1]},
            "invalid generate request: must have non-empty input_ids field",
        ),
        (SglangHttpParser, "/generate", b"1", "error unmarshaling request body: expected object, got int"),
        (SglangHttpParser, "/v1/generate", {"input_ids": [1]}, "unsupported API endpoint: /v1/generate"),
    ],
)
def test_invalid_requests_are_refused(cls: type[Parser], path: str, body: object, message: str) -> None:
    assert message_of(cls, path, body) == message


def test_an_anthropic_request_is_read() -> None:
    payload = messages(max_tokens=5, stream=True)

    assert (payload.model, payload.max_output_tokens, payload.streaming) == ("m", 5, True)
    assert payload.with_model(b'{"model":"m"}', "n") == b'{"model":"n"}'


@pytest.mark.parametrize(
    "fields", [{"system": "be brief"}, {"system": [{"type": "text", "text": "x"}]}, {"tools": [{}]}]
)
def test_anthropic_system_and_tools_come_first(fields: dict[str, object]) -> None:
    plain, more = messages().prompts[0].data, messages(**fields).prompts[0].data

    assert more.endswith(plain)
    assert len(more) > len(plain)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "%s"},
        {"type": "image", "source": {"type": "base64", "data": "%s"}},
        {"type": "tool_use", "name": "f", "input": {"x": "%s"}},
        {"type": "tool_result", "content": "%s"},
        {"type": "thinking", "thinking": "%s"},
    ],
)
def test_anthropic_blocks_are_told_apart(block: dict[str, object]) -> None:
    def data(name: str) -> bytes:
        text = repr(block).replace("%s", name).replace("'", '"').encode()
        body = b'{"messages":[{"role":"user","content":[' + text + b"]}]}"
        return parse(AnthropicParser, "/v1/messages", body).prompts[0].data

    assert data("a") != data("b")


def test_counting_tokens_passes_unread() -> None:
    payload = parse(AnthropicParser, "/v1/messages/count_tokens", b"anything")

    assert payload.skip_response
    assert payload.prompts == ()


def test_a_vllm_generate_request_is_read() -> None:
    payload = generate(sampling_params={"max_tokens": 9, "n": 2}, cache_salt="s", stream=True)

    assert payload.prompts[0].data == struct.pack("<4I", 1, 2, 3, 4)
    assert (payload.max_output_tokens, payload.choices, payload.cache_salt, payload.streaming) == (9, 2, "s", True)


def test_media_are_told_apart_where_their_tokens_are() -> None:
    def data(content_hash: str) -> bytes:
        features = {"mm_hashes": {"image": [content_hash]}, "mm_placeholders": {"image": [{"offset": 1, "length": 2}]}}
        return generate(features=features).prompts[0].data

    one, other = data("a"), data("b")
    assert one[:4] == other[:4] == struct.pack("<I", 1)
    assert one[12:] == other[12:] == struct.pack("<I", 4)
    assert one[4:12] != other[4:12]
    assert one == data("a")


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (9, 2), (0, -3), (0, 0)])
def test_media_outside_of_the_prompt_change_nothing(offset: int, length: int) -> None:
    features = {"mm_hashes": {"image": ["a"]}, "mm_placeholders": {"image": [{"offset": offset, "length": length}]}}

    assert generate(features=features).prompts == generate().prompts


def test_an_sglang_request_is_read_and_names_no_model() -> None:
    body = {"input_ids": [7, 8], "model": 5, "extra_key": "s", "sampling_params": {"max_new_tokens": 3}, "stream": True}
    payload = parse(SglangHttpParser, "/generate", body)

    assert payload.prompts[0].data == struct.pack("<2I", 7, 8)
    assert (payload.model, payload.cache_salt, payload.max_output_tokens, payload.streaming) == (None, "s", 3, True)
    assert payload.with_model(b'{"model":"x"}', "y") == b'{"model":"x"}'


def test_an_sglang_batch_makes_several_prompts() -> None:
    assert len(parse(SglangHttpParser, "/generate", {"input_ids": [[1], [2]]}).prompts) == 2
    assert len(parse(SglangHttpParser, "/generate", {"text": ["a", "b"]}).prompts) == 2


def test_passthrough_takes_anything() -> None:
    payload = parse(PassthroughParser, "/whatever", b"\x00\xff")
    reader: UsageReader | None = make_plugin(PassthroughParser).usage_reader(Request("r", {}), response())

    assert (payload.model, payload.prompts, reader) == (None, (), None)
    assert payload.with_model(b"x", "m") == b"x"


def test_every_path_has_one_parser_and_one_parser_takes_the_rest() -> None:
    claimed = [(path, cls) for cls in PARSERS for path in make_plugin(cls).paths()]

    assert len({path for path, _ in claimed}) == len(claimed)
    assert [cls for cls in PARSERS if not make_plugin(cls).paths()] == [PassthroughParser]
