from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from epp.api import (
    TOKENIZED_PROMPT,
    ConfigError,
    HttpReply,
    OutsideError,
    Parser,
    Payload,
    Prompt,
    Request,
    TokenizedPrompt,
    data_key,
)
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.producers.token_producer import TokenProducer
from tests.support.kv_fixtures import captures
from tests.support.outside import Scripted, finish, handle_with, json_reply
from tests.support.parsing import parse
from tests.support.plugins import Clock, make_fleet, make_plugin
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
    hashes = [medium.content_hash for medium in produced(chat("u1", "u2")).media]

    assert hashes[1] == produced(chat("u2")).media[0].content_hash


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


def test_prompts_are_forgotten_once_the_destination_is_known() -> None:
    fleet, request = make_fleet(1), Request("r", {})
    request.payload = chat("u1")
    producer = make_plugin(TokenProducer)
    producer.produce(request, fleet.candidates())
    producer.pre_request(request, picked(fleet, 0))

    kept: TokenizedPrompt = request.data[data_key(TOKENIZED_PROMPT)]
    assert (kept.prompts, len(kept.media)) == ((), 1)


def test_the_estimate_of_the_configuration_counts_for_all_plugins() -> None:
    request = Request("r", {})
    request.payload = chat("u1")
    before = request.payload.prompt_tokens
    estimate = {"image": {"mode": "static", "static": {"staticToken": 1000}}}

    make_plugin(TokenProducer, estimate=estimate).process_request_header(request)

    assert request.payload.prompt_tokens == before + 1000 - 225
    assert produced(request.payload).media[0].tokens == 1000


# --- a server ------------------------------------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"
RENDER = "/v1/chat/completions/render"


def asked(path: str, body: dict[str, Any], *, parser: type[Parser] = OpenAIParser) -> Request:
    request = Request("r", {":path": path})
    request.body = json.dumps(body).encode()
    request.payload = parse(parser, path, request.body)
    return request


def talk(*texts: str, **more: object) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"model": "m", "messages": messages, **more}


class Served:
    """A token-producer and the server that it asks."""

    def __init__(self, **answers: object) -> None:
        self.outside = Scripted({path.replace("_", "/"): answer for path, answer in answers.items()})
        self.clock = Clock()
        handle = handle_with(self.outside, make_fleet(1), name="token-producer", clock=self.clock)
        self.producer = make_plugin(
            TokenProducer, handle=handle, modelName="served", vllm={"url": "http://tokens:8000/"}
        )

    def ask(self, request: Request) -> tuple[list[int], ...] | None:
        """The tokens of each prompt; None where there are none."""
        finish(self.producer.produce(request, make_fleet(1).candidates()))
        found: TokenizedPrompt = request.data[data_key(TOKENIZED_PROMPT)]
        if not all(p.tokenized for p in found.prompts):
            return None
        return tuple(array("I", p.data).tolist() for p in found.prompts)


def test_a_chat_is_rendered_under_the_servers_name_of_the_model() -> None:
    served = Served()
    served.outside.answers[RENDER] = json_reply({"token_ids": [5, 6, 7], "sampling_params": {}, "features": None})

    assert served.ask(asked(CHAT, talk("hello", temperature=0.5))) == ([5, 6, 7],)
    assert served.outside.asked[0][1] == talk("hello", temperature=0.5) | {"model": "served"}


def test_completions_have_tokens_for_each_prompt() -> None:
    served = Served()
    served.outside.answers["/v1/completions/render"] = json_reply([{"token_ids": [1]}, {"token_ids": [2, 3]}])

    assert served.ask(asked("/v1/completions", {"model": "m", "prompt": ["a", "b"]})) == ([1], [2, 3])


@pytest.mark.parametrize(
    ("path", "body", "parser"),
    [
        ("/v1/messages", talk("hi", max_tokens=5), AnthropicParser),
        ("/v1/responses", {"model": "m", "input": "hi"}, OpenAIParser),
    ],
)
def test_other_apis_have_render_endpoints_of_their_own(path: str, body: dict[str, Any], parser: type[Parser]) -> None:
    served = Served()
    served.outside.answers[f"{path}/render"] = json_reply({"token_ids": [9]})

    assert served.ask(asked(path, body, parser=parser)) == ([9],)


def test_media_come_with_their_places() -> None:
    served = Served()
    features = {
        "mm_hashes": {"image": ["aa", "bb"]},
        "mm_placeholders": {"image": [{"offset": 7, "length": 4}, {"offset": 1, "length": 3}]},
    }
    served.outside.answers[RENDER] = json_reply({"token_ids": list(range(20)), "features": features})
    request = asked(CHAT, talk("look"))

    served.ask(request)

    media = request.data[data_key(TOKENIZED_PROMPT)].media
    assert [(m.identifier, m.offset, m.length) for m in media] == [("bb", 1, 3), ("aa", 7, 4)]


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_a_server_without_render_endpoints_is_asked_at_tokenize_from_then_on(status: int) -> None:
    served = Served()
    served.outside.answers[RENDER] = HttpReply(status, b"{}")
    served.outside.answers["/tokenize"] = json_reply({"tokens": [1, 2], "count": 2, "max_model_len": 9})

    first = served.ask(asked(CHAT, talk("hello", tools=[{"type": "function"}])))
    second = served.ask(asked("/v1/completions", {"model": "m", "prompt": "text"}))

    assert (first, second) == (([1, 2],), ([1, 2],))
    assert served.outside.paths == [RENDER, "/tokenize", "/tokenize"]
    _, chat_asked = served.outside.asked[1]
    assert (chat_asked["model"], chat_asked["tools"], chat_asked["add_generation_prompt"]) == (
        "served",
        [{"type": "function"}],
        True,
    )
    assert served.outside.asked[2][1] == {"model": "served", "prompt": "text", "add_special_tokens": True}


def test_a_prompt_that_was_tokenized_before_is_known() -> None:
    served = Served()
    served.outside.answers[RENDER] = json_reply({"token_ids": [5]})

    for _ in range(3):
        assert served.ask(asked(CHAT, talk("hello"))) == ([5],)
    assert len(served.outside.asked) == 1


@pytest.mark.parametrize(
    "more", [{"add_generation_prompt": False}, {"chat_template_kwargs": {"x": 1}}, {"tools": [{}]}]
)
def test_what_changes_tokens_makes_another_prompt(more: dict[str, Any]) -> None:
    served = Served()
    served.outside.answers[RENDER] = json_reply({"token_ids": [5]})

    served.ask(asked(CHAT, talk("hello")))
    served.ask(asked(CHAT, talk("hello", **more)))

    assert len(served.outside.asked) == 2


def test_a_server_that_fails_is_left_alone_for_longer_and_longer() -> None:
    served = Served()
    served.outside.answers[RENDER] = OutsideError("gone")
    tries = []
    for _ in range(100):
        before = len(served.outside.asked)
        assert served.ask(asked(CHAT, talk("hello"))) is None
        if len(served.outside.asked) > before:
            tries.append(served.clock.now - 1000.0)
        served.clock.now += 1.0

    assert tries == [0, 1, 3, 7, 15, 31, 61, 91]


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_server_that_can_serve_nobody_is_left_alone_and_told_of(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served()
    served.outside.answers[RENDER] = HttpReply(status, b"{}")

    assert served.ask(asked(CHAT, talk("hello"))) is None
    assert served.ask(asked(CHAT, talk("other"))) is None
    assert served.outside.paths == [RENDER]
    assert f"{RENDER}: status {status}; requests go without tokens" in caplog.text


def test_a_model_that_the_server_does_not_serve_is_told_of_and_found_when_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = Served()
    served.outside.answers |= {RENDER: HttpReply(404, b"{}"), "/tokenize": HttpReply(404, b"{}")}
    assert served.ask(asked(CHAT, talk("hello"))) is None
    served.outside.answers[RENDER] = json_reply({"token_ids": [5]})
    served.clock.now += 1.0

    assert served.ask(asked(CHAT, talk("hello"))) == ([5],)
    assert "/tokenize: status 404; does the server serve 'served'?" in caplog.text


def test_a_server_that_answers_again_is_asked_again() -> None:
    served = Served()
    served.outside.answers[RENDER] = TimeoutError()
    served.ask(asked(CHAT, talk("hello")))
    served.outside.answers[RENDER] = json_reply({"token_ids": [5]})
    served.clock.now += 1.0

    assert served.ask(asked(CHAT, talk("hello"))) == ([5],)
    assert served.ask(asked(CHAT, talk("other"))) == ([5],)


def test_a_request_that_the_server_refuses_costs_other_requests_nothing() -> None:
    served = Served()
    served.outside.answers[RENDER] = HttpReply(400, b"{}")
    assert served.ask(asked(CHAT, talk("hello"))) is None
    served.outside.answers[RENDER] = json_reply({"token_ids": [5]})

    assert served.ask(asked(CHAT, talk("other"))) == ([5],)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token_ids": [-1]}', b'{"token_ids": "x"}', b"\xff"])
def test_an_answer_that_cannot_be_read_is_no_answer(body: bytes) -> None:
    served = Served()
    served.outside.answers[RENDER] = HttpReply(200, body)

    assert not served.ask(asked(CHAT, talk("hello")))


def test_a_conversation_that_goes_on_keeps_its_known_beginning_when_the_server_fails() -> None:
    """What is cached of it is that beginning: nobody has sent the rest before."""
    served = Served()
    served.outside.answers[RENDER] = json_reply({"token_ids": [5, 6, 7]})
    served.ask(asked(CHAT, talk("hello")))
    served.outside.answers[RENDER] = TimeoutError()

    assert served.ask(asked(CHAT, talk("hello", "yes?", "go on"))) == ([5, 6, 7],)
    assert served.ask(asked(CHAT, talk("hello", "yes?", "go on"))) == ([5, 6, 7],)
    assert served.ask(asked(CHAT, talk("goodbye", "yes?", "go on"))) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"vllm": {}}, "modelName: "),
        ({"modelName": "m", "vllm": {"url": "tokens:8000"}}, "vllm.url: expected http://host:port"),
        ({"modelName": "m", "vllm": {"timeout": "soon"}}, "vllm.timeout: "),
        ({"modelName": "m", "vllm": {}, "local": {"path": "/"}}, "local: tokens come from a server"),
        ({"local": {"path": "/nonexistent"}}, "local: there is no /nonexistent/tokenizer.json"),
    ],
)
def test_parameters_that_cannot_be(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plugin(TokenProducer, **parameters)


# --- files ---------------------------------------------------------------------------------------------------------------

MODEL = Path(__file__).parents[2] / "vllm" / "models" / "tiny"


def local_tokens(outside: Scripted, *requests: Request) -> list[list[int]]:
    handle = handle_with(outside, make_fleet(1), name="token-producer")
    producer = make_plugin(TokenProducer, handle=handle, local={"path": str(MODEL)})
    for request in requests:
        finish(producer.produce(request, make_fleet(1).candidates()))
    return [array("I", r.data[data_key(TOKENIZED_PROMPT)].prompts[0].data).tolist() for r in requests]


def test_a_local_tokenizer_gives_the_tokens_that_a_real_vllm_gave() -> None:
    for capture in captures():
        requests = [asked("/v1/completions", {"model": "m", "prompt": a.prompt}) for a in capture.requests]

        assert local_tokens(Scripted(), *requests) == [a.tokens for a in capture.requests]


def test_long_texts_are_tokenized_on_another_thread() -> None:
    outside = Scripted()
    local_tokens(outside, asked("/v1/completions", {"model": "m", "prompt": "short"}))
    before = outside.threads
    local_tokens(outside, asked("/v1/completions", {"model": "m", "prompt": "long " * 2000}))

    assert (before, outside.threads) == (0, 1)


def test_a_conversation_that_goes_on_begins_with_the_tokens_that_it_had() -> None:
    short, long = local_tokens(Scripted(), asked(CHAT, talk("hello")), asked(CHAT, talk("hello", "yes?", "go on")))

    assert long[: len(short) - 1] == short[:-1]  # but for the mark of an answer that begins


def test_what_needs_the_models_own_processor_has_no_tokens() -> None:
    request = asked(
        CHAT, {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}
    )
    producer = make_plugin(TokenProducer, local={"path": str(MODEL)})
    finish(producer.produce(request, make_fleet(1).candidates()))

    assert not request.data[data_key(TOKENIZED_PROMPT)].prompts[0].tokenized


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(ConfigError, match=r'local: needs the package tokenizers.*pip install "llm-epp\[tokenizers\]"'):
        make_plugin(TokenProducer, local={"path": str(MODEL)})
