"""What the OpenAI parser takes from a request besides its prompt."""

from __future__ import annotations

import pytest

from epp.api import Payload
from epp_plugins.parsers.openai_parser import OpenAIParser
from tests.support.parsing import parse

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: object) -> Payload:
    return parse(OpenAIParser, "/v1/chat/completions", {"model": "m", "messages": MESSAGES, **fields})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions/render", "/openai/v1/chat/completions"])
def test_the_model_is_read(path: str) -> None:
    assert parse(OpenAIParser, path, {"model": "org/m", "messages": MESSAGES}).model == "org/m"


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}])
def test_a_request_may_leave_the_model_out(body: dict[str, object]) -> None:
    """A generic rewrite may supply it, so the parser does not refuse."""
    assert parse(OpenAIParser, "/v1/chat/completions", {**body, "messages": MESSAGES}).model is None


def test_of_repeated_models_the_last_counts() -> None:
    body = b'{"model":"a","prompt":"hi","mod\\u0065l":"b"}'

    assert parse(OpenAIParser, "/v1/completions", body).model == "b"


@pytest.mark.parametrize(
    ("stream", "streaming"), [(True, True), (False, False), ("true", False), (1, False), (None, False), ([True], False)]
)
def test_only_a_json_true_streams(stream: object, streaming: bool) -> None:
    assert chat(stream=stream).streaming is streaming


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 16}, 16),
        ({"max_tokens": 16.0}, 16),
        ({"max_completion_tokens": 8, "max_tokens": 16}, 8),
        ({"max_completion_tokens": None, "max_tokens": 16}, 16),
        ({"max_tokens": -1}, None),
        ({"max_tokens": "16"}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": 10**300}, None),
    ],
)
def test_the_limit_of_output_tokens_is_read(fields: dict[str, object], limit: int | None) -> None:
    assert chat(**fields).max_output_tokens == limit


@pytest.mark.parametrize(
    ("n", "choices"), [(None, 1), (1, 1), (3, 3), (3.0, 3), (0, 1), (-1, 1), ("3", 1), (True, 1), (1 << 62, 16_384)]
)
def test_a_chat_has_as_many_choices_as_are_asked_for(n: object, choices: int) -> None:
    assert (chat().choices, chat(n=n).choices) == (1, choices)


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [[1, 2], [3], [4]], "n": 2, "best_of": 5}, 6),
    ],
    ids=str,
)
def test_every_prompt_of_completions_has_its_choices(fields: dict[str, object], choices: int) -> None:
    """Each is generated at its own pace, beside the others."""
    assert parse(OpenAIParser, "/v1/completions", {"model": "m", **fields}).choices == choices


def test_the_responses_api_has_its_own_limit() -> None:
    body = {"model": "m", "input": "hi", "max_output_tokens": 7}

    assert parse(OpenAIParser, "/v1/responses", body).max_output_tokens == 7


@pytest.mark.parametrize(("salt", "read"), [("s", "s"), (None, "")])
def test_the_cache_salt_is_read(salt: str | None, read: str) -> None:
    assert chat(cache_salt=salt).cache_salt == read


@pytest.mark.parametrize(
    "text", [b'"\\ud83d"', b'"\\ude00 x"', b'"\\ud83d\\ud83d\\ude00"', b'"\xff\xfe"', b'"\xed\xa0\x80"']
)
def test_text_that_is_no_unicode_is_let_through(text: bytes) -> None:
    """Clients cut emoji in two; the Go EPP reads such halves as U+FFFD and leaves the judgement to the model server."""
    prompts = parse(OpenAIParser, "/v1/completions", b'{"model":"m","prompt":' + text + b"}").prompts

    assert "\ufffd".encode() in prompts[0].data
