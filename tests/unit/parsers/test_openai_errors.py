"""What the client is told about a body that is not valid: the texts of the Go EPP, and never words of the prompt."""

from __future__ import annotations

import pytest

from epp.api import Code, RequestError
from epp_plugins.parsers.openai_parser import OpenAIParser
from tests.support.parsing import parse

CHAT = "invalid chat completions request: must have valid messages field"
COMPLETIONS = "invalid completions request: must have prompt field"
EMBEDDINGS = "invalid embeddings request: must have input field"
RESPONSES = "invalid responses request: must have input field"
CONVERSATIONS = "invalid conversations request: must have items field"
IMAGES = "invalid images generations request: must have prompt field"
SYNTAX = "error unmarshaling request bodyMap: "
CHAT_PATH = "/v1/chat/completions"


def message_of(path: str, body: object) -> str:
    with pytest.raises(RequestError) as caught:
        parse(OpenAIParser, path, body)
    assert caught.value.code is Code.BAD_REQUEST
    return caught.value.message


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (CHAT_PATH, {"model": "m"}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": []}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": None}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": "hi"}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": [1]}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": [{"role": 1, "content": "hi"}]}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": [{"role": "user", "content": 1}]}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": {}}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": [{"role": "user", "content": "hi"}], "cache_salt": 1}, CHAT),
        (CHAT_PATH, {"model": "m", "messages": [{"role": "user"}], "add_generation_prompt": "yes"}, CHAT),
        ("/v1/chat/completions/render", {"model": "m"}, CHAT),
        ("/v1/completions", {"model": "m"}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": ""}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": []}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": 5}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": [-1]}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": [1 << 32]}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": [1, "a"]}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": ["a", 1]}, COMPLETIONS),
        ("/v1/completions", {"model": "m", "prompt": [1, True]}, COMPLETIONS),
        ("/v1/completions/render", {"model": "m"}, COMPLETIONS),
        ("/v1/embeddings", {"model": "m"}, EMBEDDINGS),
        ("/v1/embeddings", {"model": "m", "input": ""}, EMBEDDINGS),
        ("/v1/responses", {"model": "m"}, RESPONSES),
        ("/v1/responses", {"model": "m", "input": []}, RESPONSES),
        ("/v1/conversations", {"model": "m", "items": []}, CONVERSATIONS),
        ("/v1/images/generations", {"model": "m", "prompt": ""}, IMAGES),
        ("/somewhere", {"model": "m"}, COMPLETIONS),
    ],
)
def test_a_missing_or_mistyped_field_is_named(path: str, body: object, message: str) -> None:
    assert message_of(path, body) == message


@pytest.mark.parametrize("model", [1, 1.5, True, [], {}, ["m"], {"model": "m"}])
def test_a_model_of_a_wrong_type_counts_as_not_found(model: object) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}

    assert message_of(CHAT_PATH, body) == "model not found in request body"


def test_the_required_field_is_checked_before_the_model() -> None:
    assert message_of(CHAT_PATH, {"model": 1, "messages": "hi"}) == CHAT


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "unexpected end of JSON input"),
        (b'{"model":', "unexpected end of JSON input"),
        (b"not json", "invalid character"),
        (b"\xef\xbb\xbf{}", "invalid character"),
        (b'{"model":NaN}', "invalid character"),
        (b'{"model":"m"}x', "trailing characters"),
        (b"[]", "expected object, got array"),
        (b"null", "expected object, got null"),
        (b'"hi"', "expected object, got str"),
        (b"17", "expected object, got int"),
        (b'{"x":' + b"[" * 100_000, "nested too deeply"),
        (b'{"model":' + b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_reason(body: bytes, detail: str) -> None:
    assert message_of(CHAT_PATH, body).startswith(SYNTAX + detail)


@pytest.mark.parametrize("body", [b'{"messages": "my secret"}', b'{"messages":["my secret', b'"my secret"'])
def test_the_message_holds_nothing_of_the_prompt(body: bytes) -> None:
    assert "secret" not in message_of(CHAT_PATH, body)
