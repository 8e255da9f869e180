from __future__ import annotations

import pytest

from epp.api import TOKENIZED_PROMPT, ConfigError, Payload, Prompt, Request, TokenizedPrompt, data_key
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.producers.token_producer import TokenProducer
from tests.support.parsing import parse
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import picked


def produced(payload: Payload) -> TokenizedPrompt:
    request = Request("r", {})
    request.payload = payload
    make_plugin(TokenProducer).produce(request, make_fleet(1).candidates())
    prompt: TokenizedPrompt = request.data[data_key(TOKENIZED_PROMPT)]
    return prompt


def chat(*urls: str) -> Payload:
    content = [{"type": "text", "text": "what is \u00fd this"}] + [
        {"type": "image_url", "image_url": {"url": url}} for url in urls
    ]
    return parse(
        OpenAIParser, "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": content}]}
    )


@pytest.mark.parametrize(("urls", "count"), [((), 0), (("u1",), 1), (("u1", "u2", "u1"), 3)])
def test_media_are_found_in_what_the_parser_read(urls: tuple[str, ...], count: int) -> None:
    found = produced(chat(*urls)).media

    assert len(found) == count
    assert len({medium.content_hash for medium in found}) == len(set(urls))


def test_many_media_are_told_apart_whatever_their_hashes_hold() -> None:
    urls = [f"http://images/{i}" for i in range(500)]

    media = produced(chat(*urls)).media

    assert len({medium.content_hash for medium in media}) == 500


def test_the_same_medium_has_the_same_hash_in_another_request() -> None:
    assert produced(chat("u1", "u2")).media[1] == produced(chat("u2")).media[0]


def test_media_of_other_apis_are_found_too() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}],
    }

    assert len(produced(parse(AnthropicParser, "/v1/messages", body)).media) == 1


def test_token_ids_are_passed_on_and_are_no_media() -> None:
    prompt = Prompt(b"\xfd" * 64, tokenized=True)

    assert produced(Payload(prompts=(prompt,))) == TokenizedPrompt((prompt,))


def test_the_backend_that_asks_a_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="vllm: asking a server for tokens"):
        make_plugin(TokenProducer, modelName="m", vllm={"url": "http://localhost:8000"})


def test_prompts_are_forgotten_once_the_destination_is_known() -> None:
    fleet, request = make_fleet(1), Request("r", {})
    request.payload = chat("u1")
    producer = make_plugin(TokenProducer)
    producer.produce(request, fleet.candidates())
    producer.pre_request(request, picked(fleet, 0))

    kept: TokenizedPrompt = request.data[data_key(TOKENIZED_PROMPT)]
    assert (kept.prompts, len(kept.media)) == ((), 1)


def test_a_medium_that_was_cut_off_is_none() -> None:
    whole = b"\xfd" + bytes(range(16))

    media = produced(Payload(prompts=(Prompt(whole + whole[:9], size_bytes=1000), Prompt(whole)))).media

    assert [medium.content_hash for medium in media] == [bytes(range(16))] * 2
