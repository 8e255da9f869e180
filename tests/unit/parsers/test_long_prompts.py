"""Of a very long prompt the beginning is kept, and all of it is counted."""

import pytest

from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.parsers.prompts import KEPT_BYTES, Pieces, joined, utf8
from tests.support.parsing import parse


def test_a_long_text_keeps_its_beginning_and_its_length() -> None:
    prompt = joined(Pieces([b"\xff", utf8("ab" * KEPT_BYTES)]))

    assert len(prompt.data) == KEPT_BYTES
    assert prompt.data[:4] == b"\xffaba"
    assert prompt.token_count == (2 * KEPT_BYTES + 1 + 3) // 4


def test_many_texts_that_are_long_together_are_cut_as_one() -> None:
    half = "x" * (KEPT_BYTES // 2)

    prompt = joined(Pieces([utf8(half), utf8(half), utf8(half)]))

    assert prompt.data == b"x" * KEPT_BYTES
    assert prompt.token_count == 3 * KEPT_BYTES // 8


def test_texts_below_the_limit_are_whole() -> None:
    assert joined(Pieces([utf8("a"), utf8("b" * 100)])).data == b"a" + b"b" * 100


@pytest.mark.parametrize("body", ['{"model":"m","prompt":"%s"}', '{"model":"m","prompt":["%s"]}'])
def test_a_long_completion_prompt_is_read(body: str) -> None:
    payload = parse(OpenAIParser, "v1/completions", (body % ("y" * (KEPT_BYTES + 400))).encode())

    assert payload.prompt_tokens == KEPT_BYTES // 4 + 100


def test_many_media_that_claim_to_be_large_take_no_more_memory_than_a_long_text() -> None:
    video = {"type": "video_url", "video_url": {"url": "v"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [video] * 1000}]}
    hints = {"x-llm-d-video-resolution": "99999x99999", "x-llm-d-video-duration-seconds": "1e300"}

    [prompt] = parse(OpenAIParser, "v1/chat/completions", body, headers=hints).prompts

    assert len(prompt.data) == KEPT_BYTES
    assert prompt.token_count > 1000 * 4500
    assert all(medium.at + 17 <= KEPT_BYTES for medium in prompt.media)
